import type { Service } from "./api.ts";

export function StatusPanel({ services, error }: { services: Service[] | undefined; error: string | undefined }) {
  return (
    <section className="card" aria-label="Status" aria-busy={services === undefined}>
      <h2>Status</h2>
      {error && <p role="alert">{error}</p>}
      {!services && !error && <p role="status">Loading…</p>}
      <ul role="list" className="status">
        {services?.map(({ name, status, detail }) => (
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
