import { useState } from "react";
import {
  type Campaign,
  assetUrl,
  createCampaign,
  getStatus,
  listCampaigns,
  type Service,
  setAsset,
  signIn,
} from "./api.ts";
import { usePolled } from "./usePolled.ts";
import { WorldMap } from "./WorldMap.tsx";

/** A text field's value. */
const textOf = (form: FormData, name: string): string => {
  const value = form.get(name);
  return typeof value === "string" ? value : "";
};

/** Run a form's action and keep what went wrong for the person to read. */
function useAction() {
  const [problem, setProblem] = useState<string>();
  const [busy, setBusy] = useState(false);
  const run = async (action: () => Promise<void>) => {
    setBusy(true);
    setProblem(undefined);
    try {
      await action();
    } catch (error) {
      setProblem((error as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return { problem, busy, run };
}

function SignIn({ onToken }: { onToken: (token: string) => void }) {
  const { problem, busy, run } = useAction();
  const submit = (event: React.SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    void run(async () => onToken(await signIn(textOf(form, "username"), textOf(form, "password"))));
  };
  return (
    <form className="card" onSubmit={submit}>
      <h2>Sign in to create a campaign</h2>
      <label>
        Username
        <input name="username" autoComplete="username" required />
      </label>
      <label>
        Password
        <input name="password" type="password" autoComplete="current-password" required />
      </label>
      {problem && <p role="alert">{problem}</p>}
      <button type="submit" disabled={busy}>
        Sign in
      </button>
    </form>
  );
}

interface CreateProperties {
  token: string;
  place: { longitude: string; latitude: string };
  onPlace: (place: { longitude: string; latitude: string }) => void;
  onCreated: () => Promise<void>;
}

function CreateCampaign({ token, place, onPlace, onCreated }: CreateProperties) {
  const { problem, busy, run } = useAction();
  const submit = (event: React.SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const element = event.currentTarget;
    const form = new FormData(element);
    const file = form.get("asset");
    void run(async () => {
      const created = await createCampaign(
        {
          name: textOf(form, "name"),
          longitude: Number(place.longitude),
          latitude: Number(place.latitude),
          radiusMeters: Number(form.get("radius")) * 1000,
        },
        token,
      );
      if (file instanceof File && file.size > 0) await setAsset(created.id, file, token);
      element.reset();
      await onCreated();
    });
  };
  return (
    <form className="card" onSubmit={submit}>
      <h2>New campaign</h2>
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
      <p className="hint">A click on the map fills these in.</p>
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
      <button type="submit" disabled={busy}>
        Create campaign
      </button>
    </form>
  );
}

function CampaignList({ campaigns }: { campaigns: Campaign[] }) {
  return (
    <section className="card">
      <h2 id="campaigns">Campaigns</h2>
      {campaigns.length === 0 && <p className="hint">None yet.</p>}
      <ul role="list" aria-labelledby="campaigns">
        {campaigns.map(({ id, name, place, state, asset }) => (
          <li key={id} data-campaign={id}>
            {asset ? <img src={assetUrl(id)} alt="" /> : <span className="thumb" />}
            <span className="name">{name}</span>
            <span className="place">{place.coordinates.map((value) => value.toFixed(2)).join(", ")}</span>
            <span className={`state ${state}`}>{state}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function StatusPanel({ services, error }: { services: Service[]; error: string | undefined }) {
  return (
    <section className="card" aria-label="Status">
      <h2>Status</h2>
      {error && <p role="alert">{error}</p>}
      <ul role="list" className="status">
        {services.map(({ name, status, detail }) => (
          <li key={name} data-status={status}>
            <span className="name">{name}</span>
            <span className="place">{detail}</span>
            <span className={`state ${status}`}>{status}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

export function App() {
  const [token, setToken] = useState<string>();
  const [place, setPlace] = useState({ longitude: "", latitude: "" });
  const campaigns = usePolled(listCampaigns);
  const status = usePolled(getStatus);
  const pick = (longitude: number, latitude: number) =>
    setPlace({ longitude: longitude.toFixed(3), latitude: latitude.toFixed(3) });
  return (
    <>
      <header>
        <h1>Campaigns</h1>
        {token && <button onClick={() => setToken(undefined)}>Sign out</button>}
      </header>
      <main>
        <div className="wide">
          <WorldMap campaigns={campaigns.value ?? []} onPick={pick} />
          {campaigns.error && <p role="alert">{campaigns.error}</p>}
          <CampaignList campaigns={campaigns.value ?? []} />
        </div>
        <div className="narrow">
          {token ? (
            <CreateCampaign token={token} place={place} onPlace={setPlace} onCreated={campaigns.refresh} />
          ) : (
            <SignIn onToken={setToken} />
          )}
          <StatusPanel services={status.value ?? []} error={status.error} />
        </div>
      </main>
    </>
  );
}
