import { commonSettings, port } from "@campaign/shared";
import { z } from "zod";

const previousKeys = z.array(z.object({ key: z.string().min(8), until: z.int().positive() }));

/** Keys that signed tokens before JWT_SECRET did, each until a time in seconds since 1970. Empty where there is none. */
const keysBefore = z
  .string()
  .default("")
  .transform((text, context) => {
    try {
      return previousKeys.parse(text.trim() === "" ? [] : JSON.parse(text));
    } catch {
      // What is wrong is not told, because it stands in a secret.
      context.addIssue({
        code: "custom",
        message: 'must be a JSON list such as [{"key": "...", "until": 1764700000}]',
      });
      return z.NEVER;
    }
  });

/** The api's settings. */
export const settings = {
  ...commonSettings,
  API_PORT: port.default(3000),
  S3_ENDPOINT: z.url({ protocol: /^https?$/ }),
  S3_REGION: z.string().min(1).default("us-east-1"),
  S3_BUCKET: z.string().min(3),
  S3_PATH_STYLE: z.stringbool().default(true),
  S3_ACCESS_KEY: z.string().min(3),
  S3_SECRET_KEY: z.string().min(8),
  JWT_SECRET: z.string().min(8),
  JWT_SECRET_PREVIOUS: keysBefore,
  JWT_EXPIRATION: z.string().regex(/^[1-9][0-9]{0,5}[smhd]$/, "must be a time such as 15m, 12h or 7d"),
  OPERATOR_USER: z.string().min(1).default("operator"),
  OPERATOR_PASSWORD: z.string().min(8),
};
export type Settings = z.infer<z.ZodObject<typeof settings>>;

/** Injection tokens of what is made once, at start. */
export const SETTINGS = Symbol("settings");
export const LOG = Symbol("log");
export const POOL = Symbol("pool");
export const REDIS = Symbol("redis");
export const ASSETS = Symbol("assets");
