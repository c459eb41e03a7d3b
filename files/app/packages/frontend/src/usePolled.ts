import { useCallback, useEffect, useRef, useState } from "react";

const INTERVAL_MILLISECONDS = 3000;

/** What a request answers, asked again every few seconds; `refresh` asks at once. */
export function usePolled<Value>(request: () => Promise<Value>) {
  const [value, setValue] = useState<Value>();
  const [error, setError] = useState<string>();
  const newest = useRef<object>(undefined);
  const refresh = useCallback(async () => {
    // An answer that comes after a later request's is old.
    const mine = {};
    newest.current = mine;
    try {
      const answer = await request();
      if (newest.current !== mine) return;
      setValue(answer);
      setError(undefined);
    } catch (reason) {
      if (newest.current === mine) setError((reason as Error).message);
    }
  }, [request]);
  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout>;
    const poll = async () => {
      await refresh();
      // It may have been replaced by another request while this one was under way.
      if (!stopped) timer = setTimeout(() => void poll(), INTERVAL_MILLISECONDS);
    };
    timer = setTimeout(() => void poll(), 0);
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [refresh]);
  return { value, error, refresh };
}
