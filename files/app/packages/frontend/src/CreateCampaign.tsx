import { createCampaign, setAsset } from "./api.ts";
import { textOf } from "./form.ts";
import { useAction } from "./useAction.ts";

/** As text, as a person types them: half a number is none yet. */
export interface Place {
  longitude: string;
  latitude: string;
}

interface Properties {
  /** Without one the form keeps what was entered, and waits. */
  token: string | undefined;
  place: Place;
  onPlace: (place: Place) => void;
  onCreated: () => Promise<void>;
  onSessionEnded: () => void;
}

export function CreateCampaign({ token, place, onPlace, onCreated, onSessionEnded }: Properties) {
  const { problem, busy, run } = useAction(onSessionEnded);
  const submit = (event: React.SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    if (token === undefined) return;
    const element = event.currentTarget;
    const form = new FormData(element);
    const file = form.get("asset");
    const coordinates: [number, number] = [Number(place.longitude), Number(place.latitude)];
    void run(async () => {
      const created = await createCampaign(
        {
          name: textOf(form, "name"),
          place: { type: "Point", coordinates },
          rule: { type: "within_radius", center: coordinates, radiusMeters: Number(form.get("radius")) * 1000 },
        },
        token,
      );
      if (file instanceof File && file.size > 0) await setAsset(created.id, file, token);
      element.reset();
      await onCreated();
    });
  };
  return (
    <form className="card" onSubmit={submit} aria-labelledby="new-campaign">
      <h2 id="new-campaign">New campaign</h2>
      <label>
        Name
        <input name="name" maxLength={200} required />
      </label>
      <div className="row">
        <label>
          Longitude
          <input
            type="number"
            min={-180}
            max={180}
            step="any"
            required
            value={place.longitude}
            onChange={(event) => onPlace({ ...place, longitude: event.target.value })}
          />
        </label>
        <label>
          Latitude
          <input
            type="number"
            min={-90}
            max={90}
            step="any"
            required
            value={place.latitude}
            onChange={(event) => onPlace({ ...place, latitude: event.target.value })}
          />
        </label>
      </div>
      <p className="hint">A click on the map fills these in, and so do the arrow keys.</p>
      <div className="row">
        <label>
          Radius in km
          <input name="radius" type="number" min={1} max={20000} defaultValue={50} required />
        </label>
        <label>
          Image (optional)
          <input name="asset" type="file" accept="image/*" />
        </label>
      </div>
      {problem && <p role="alert">{problem}</p>}
      <button type="submit" disabled={busy || token === undefined}>
        {busy ? "Creating…" : "Create campaign"}
      </button>
    </form>
  );
}
