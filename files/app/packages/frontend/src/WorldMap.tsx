import { geoEqualEarth, geoGraticule10, geoPath } from "d3-geo";
import { feature } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import land from "world-atlas/land-110m.json";
import type { Campaign } from "./api.ts";

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

interface Properties {
  campaigns: Campaign[];
  onPick: (longitude: number, latitude: number) => void;
}

/** The land's outlines, without a tile server, and a dot for every campaign. */
export function WorldMap({ campaigns, onPick }: Properties) {
  const pick = (event: React.MouseEvent<SVGSVGElement>) => {
    const box = event.currentTarget.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const y = ((event.clientY - box.top) / box.height) * HEIGHT;
    const place = projection.invert?.([x, y]);
    if (place && Math.abs(place[0]) <= 180 && Math.abs(place[1]) <= 90) onPick(place[0], place[1]);
  };
  return (
    <svg className="map" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label="Map of campaigns" onClick={pick}>
      <path className="sphere" d={outlines.sphere} />
      <path className="graticule" d={outlines.graticule} />
      <path className="land" d={outlines.land} />
      {campaigns.map(({ id, name, place, state }) => {
        const [x, y] = projection(place.coordinates) ?? [0, 0];
        return (
          <circle key={id} className={`dot ${state}`} cx={x} cy={y} r={6} data-campaign={id}>
            <title>{`${name} (${state})`}</title>
          </circle>
        );
      })}
    </svg>
  );
}
