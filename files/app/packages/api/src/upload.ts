import type { IncomingMessage } from "node:http";
import { errorCodes } from "fastify";

/** The largest asset, in bytes. The frontend's nginx lets a little more pass, so that the api is the one that says so. */
export const MAXIMUM_ASSET_BYTES = 5 * 1024 * 1024;

/**
 * Read an asset. One that is too large is read to its end before it is refused: an answer in the middle closes the connection, and a
 * proxy that is still sending then sees a broken pipe in place of the answer. What is far too large is not waited for.
 */
export async function readAsset(body: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > 2 * MAXIMUM_ASSET_BYTES) break;
    if (size <= MAXIMUM_ASSET_BYTES) chunks.push(chunk);
  }
  if (size > MAXIMUM_ASSET_BYTES) throw new errorCodes.FST_ERR_CTP_BODY_TOO_LARGE();
  return Buffer.concat(chunks);
}
