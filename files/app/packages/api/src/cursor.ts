import type { Campaign } from "@campaign/shared";
import { z } from "zod";

/** Where a page of the list ended. */
export type Cursor = Pick<Campaign, "createdAt" | "id">;

const position = z.tuple([z.iso.datetime(), z.uuid()]);

/** A place in the list as text that nobody but the api reads. It holds even when that campaign is gone. */
export function writeCursor({ createdAt, id }: Cursor): string {
  return Buffer.from(JSON.stringify([createdAt, id])).toString("base64url");
}

export const cursor = z
  .string()
  .max(200)
  .transform((text, context): Cursor => {
    try {
      const [createdAt, id] = position.parse(JSON.parse(Buffer.from(text, "base64url").toString()));
      return { createdAt, id };
    } catch {
      context.addIssue({ code: "custom", message: "Take the cursor from a Link header of this list." });
      return z.NEVER;
    }
  });
