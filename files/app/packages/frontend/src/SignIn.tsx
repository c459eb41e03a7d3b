import { SessionEnded, signIn } from "./api.ts";
import { textOf } from "./form.ts";
import { useAction } from "./useAction.ts";

const noSession = () => undefined;

export function SignIn({ ended, onToken }: { ended: boolean; onToken: (token: string) => void }) {
  const { problem, busy, run } = useAction(noSession);
  const submit = (event: React.SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    void run(async () => onToken(await signIn(textOf(form, "username"), textOf(form, "password"))));
  };
  const said = problem ?? (ended ? new SessionEnded().message : undefined);
  return (
    <form className="card" onSubmit={submit} aria-labelledby="sign-in">
      <h2 id="sign-in">{ended ? "Sign in again" : "Sign in to create a campaign"}</h2>
      <label>
        Username
        <input name="username" autoComplete="username" required />
      </label>
      <label>
        Password
        <input name="password" type="password" autoComplete="current-password" required />
      </label>
      {said && <p role="alert">{said}</p>}
      <button type="submit" disabled={busy}>
        {busy ? "Signing in…" : "Sign in"}
      </button>
    </form>
  );
}
