import { useCallback, useState } from "react";
import { getStatus, listCampaigns } from "./api.ts";
import { CampaignList } from "./CampaignList.tsx";
import { CreateCampaign, type Place } from "./CreateCampaign.tsx";
import { SignIn } from "./SignIn.tsx";
import { StatusPanel } from "./StatusPanel.tsx";
import { usePolled } from "./usePolled.ts";
import { WorldMap } from "./WorldMap.tsx";

type Session = { state: "none" } | { state: "ended" } | { state: "active"; token: string };

export function App() {
  const [session, setSession] = useState<Session>({ state: "none" });
  const [place, setPlace] = useState<Place>({ longitude: "", latitude: "" });
  const [pages, setPages] = useState(1);
  const token = session.state === "active" ? session.token : undefined;
  const list = usePolled(useCallback(() => listCampaigns(pages), [pages]));
  const status = usePolled(useCallback(() => getStatus(token), [token]));
  const pick = useCallback(
    (longitude: number, latitude: number) =>
      setPlace({ longitude: String(Number(longitude.toFixed(3))), latitude: String(Number(latitude.toFixed(3))) }),
    [],
  );
  const end = () => setSession({ state: "ended" });
  return (
    <>
      <header>
        <h1>Campaigns</h1>
        {token !== undefined && (
          <button type="button" onClick={() => setSession({ state: "none" })}>
            Sign out
          </button>
        )}
      </header>
      <main>
        <div className="wide">
          <WorldMap campaigns={list.value?.campaigns ?? []} place={place} onPick={pick} />
          <CampaignList
            campaigns={list.value?.campaigns}
            error={list.error}
            hasMore={list.value?.hasMore ?? false}
            onMore={() => setPages(pages + 1)}
            token={token}
            onDeleted={list.refresh}
            onSessionEnded={end}
          />
        </div>
        <div className="narrow">
          {session.state !== "active" && (
            <SignIn
              ended={session.state === "ended"}
              onToken={(given) => setSession({ state: "active", token: given })}
            />
          )}
          {session.state !== "none" && (
            <CreateCampaign
              token={token}
              place={place}
              onPlace={setPlace}
              onCreated={list.refresh}
              onSessionEnded={end}
            />
          )}
          <StatusPanel services={status.value} error={status.error} />
        </div>
      </main>
    </>
  );
}
