import { useCallback, useEffect, useState } from "react";

const INTERVAL_MILLISECONDS = 3000;

/** What a request answers, asked again every few seconds; `refresh` asks at once. */
export function usePolled<Value>(request: () => Promise<Value>) {
  const [value, setValue] = useState<Value>();
  const [error, setError] = useState<string>();
  const refresh = useCallback(async () => {
    try {
      setValue(await request());
      setError(undefined);
    } catch (reason) {
      setError((reason as Error).message);
    }
  }, [request]);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    const poll = async () => {
      await refresh();
      timer = setTimeout(() => void poll(), INTERVAL_MILLISECONDS);
    };
    timer = setTimeout(() => void poll(), 0);
    return () => clearTimeout(timer);
  }, [refresh]);
  return { value, error, refresh };
}
