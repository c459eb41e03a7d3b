import { useRef } from "react";
import { assetUrl, type Campaign, deleteCampaign } from "./api.ts";
import { useAction } from "./useAction.ts";

interface Properties {
  /** None before the first answer. */
  campaigns: Campaign[] | undefined;
  error: string | undefined;
  hasMore: boolean;
  onMore: () => void;
  token: string | undefined;
  onDeleted: () => Promise<void>;
  onSessionEnded: () => void;
}

export function CampaignList({ campaigns, error, hasMore, onMore, token, onDeleted, onSessionEnded }: Properties) {
  const { problem, busy, run } = useAction(onSessionEnded);
  const heading = useRef<HTMLHeadingElement>(null);
  const remove = ({ id, name }: Campaign) => {
    if (token === undefined || !window.confirm(`Delete the campaign ${name}?`)) return;
    void run(async () => {
      await deleteCampaign(id, token);
      // The button that had the focus goes away.
      heading.current?.focus();
      await onDeleted();
    });
  };
  return (
    <section className="card" aria-busy={campaigns === undefined}>
      <h2 id="campaigns" ref={heading} tabIndex={-1}>
        Campaigns
      </h2>
      {error && <p role="alert">{error}</p>}
      {problem && <p role="alert">{problem}</p>}
      {!campaigns && !error && <p role="status">Loading…</p>}
      {campaigns?.length === 0 && <p className="hint">None yet.</p>}
      <ul role="list" aria-labelledby="campaigns">
        {campaigns?.map((campaign) => (
          <li key={campaign.id} data-campaign={campaign.id}>
            {campaign.asset ? <img src={assetUrl(campaign.id)} alt="" /> : <span className="thumb" />}
            <span className="name">{campaign.name}</span>
            <span className="place">{campaign.place.coordinates.map((value) => value.toFixed(2)).join(", ")}</span>
            <span className={`state ${campaign.state}`}>{campaign.state}</span>
            {token !== undefined && (
              <button
                type="button"
                className="quiet"
                disabled={busy}
                aria-label={`Delete ${campaign.name}`}
                onClick={() => remove(campaign)}
              >
                Delete
              </button>
            )}
          </li>
        ))}
      </ul>
      {hasMore && (
        <button type="button" className="quiet" onClick={onMore}>
          Show more
        </button>
      )}
    </section>
  );
}
