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
    void refresh();
    const timer = setInterval(() => void refresh(), INTERVAL_MILLISECONDS);
    return () => clearInterval(timer);
  }, [refresh]);
  return { value, error, refresh };
}
