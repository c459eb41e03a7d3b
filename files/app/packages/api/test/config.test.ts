import { z } from "zod";
import { describe, expect, it } from "vitest";
import { settings } from "../src/config.ts";

const { JWT_SECRET_PREVIOUS } = settings;
const keys = z.object({ JWT_SECRET_PREVIOUS });

describe("the keys that signed tokens before", () => {
  it.each([
    [undefined, []],
    ["", []],
    ["[]", []],
    ['[{"key": "a \\"quoted\\" key", "until": 1764700000}]', [{ key: 'a "quoted" key', until: 1764700000 }]],
  ])("are read from %j", (text, expected) => {
    expect(keys.parse({ JWT_SECRET_PREVIOUS: text })).toEqual({ JWT_SECRET_PREVIOUS: expected });
  });

  it.each(["canary-key", '{"key": "canary-key"}', '[{"key": "canary-key"}]', '[{"key": "canary-key", "until": "x"}]'])(
    "are refused without being shown: %j",
    (text) => {
      const { error } = keys.safeParse({ JWT_SECRET_PREVIOUS: text });
      expect(error?.issues.map(({ message }) => message)).toEqual([
        'must be a JSON list such as [{"key": "...", "until": 1764700000}]',
      ]);
      expect(JSON.stringify(error)).not.toContain("canary");
    },
  );
});
