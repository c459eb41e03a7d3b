import { useState } from "react";
import { SessionEnded } from "./api.ts";

/** Run what a person asked for, and keep what went wrong for the person to read; an ended session is the page's business. */
export function useAction(onSessionEnded: () => void) {
  const [problem, setProblem] = useState<string>();
  const [busy, setBusy] = useState(false);
  const run = async (action: () => Promise<void>) => {
    setBusy(true);
    setProblem(undefined);
    try {
      await action();
    } catch (error) {
      if (error instanceof SessionEnded) onSessionEnded();
      else setProblem((error as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return { problem, busy, run };
}
