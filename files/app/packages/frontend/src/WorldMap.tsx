import { geoEqualEarth, geoGraticule10, geoPath } from "d3-geo";
import { feature } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import land from "world-atlas/land-110m.json";
import type { Campaign } from "./api.ts";
import type { Place } from "./CreateCampaign.tsx";

const WIDTH = 960;
const HEIGHT = 470;
const topology = land as unknown as Topology<{ land: GeometryCollection }>;
const shape = feature(topology, topology.objects.land);
const projection = geoEqualEarth().fitSize([WIDTH, HEIGHT], { type: "Sphere" });
const path = geoPath(projection);
const outlines = {
  sphere: path({ type: "Sphere" }) ?? "",
  graticule: path(geoGraticule10()) ?? "",
  land: path(shape) ?? "",
};

// Degrees that one press of an arrow key goes, and one with the shift key.
const STEP = 1;
const LEAP = 10;
const DIRECTIONS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, 1],
  ArrowDown: [0, -1],
};
const within = (value: number, limit: number) => Math.max(-limit, Math.min(limit, value));

interface Properties {
  campaigns: Campaign[];
  place: Place;
  onPick: (longitude: number, latitude: number) => void;
}

/** The land's outlines, without a tile server, a dot for every campaign, and a cross where the next one goes. */
export function WorldMap({ campaigns, place, onPick }: Properties) {
  const click = (event: React.MouseEvent<SVGSVGElement>) => {
    const box = event.currentTarget.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const y = ((event.clientY - box.top) / box.height) * HEIGHT;
    const picked = projection.invert?.([x, y]);
    if (picked && Math.abs(picked[0]) <= 180 && Math.abs(picked[1]) <= 90) onPick(picked[0], picked[1]);
  };
  const press = (event: React.KeyboardEvent<SVGSVGElement>) => {
    const direction = DIRECTIONS[event.key];
    if (!direction) return;
    event.preventDefault();
    const step = event.shiftKey ? LEAP : STEP;
    const [east, north] = direction;
    onPick(within(Number(place.longitude) + east * step, 180), within(Number(place.latitude) + north * step, 90));
  };
  const chosen = place.longitude !== "" && place.latitude !== "";
  const cross = chosen ? projection([Number(place.longitude), Number(place.latitude)]) : null;
  return (
    <svg
      className="map"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="application"
      aria-label="Map of campaigns. The arrow keys choose a place, in larger steps with the shift key."
      tabIndex={0}
      onClick={click}
      onKeyDown={press}
    >
      <path className="sphere" d={outlines.sphere} />
      <path className="graticule" d={outlines.graticule} />
      <path className="land" d={outlines.land} />
      {campaigns.map(({ id, name, place: { coordinates }, state }) => {
        const [x, y] = projection(coordinates) ?? [0, 0];
        return (
          <circle key={id} className={`dot ${state}`} cx={x} cy={y} r={6} role="img" data-campaign={id}>
            <title>{`${name} (${state})`}</title>
          </circle>
        );
      })}
      {cross && <path className="cross" d={`M${cross[0]},${cross[1]}m-9,0h18m-9,-9v18`} />}
    </svg>
  );
}
