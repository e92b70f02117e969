/** Reading a JSON body: as a stream, stopped at the ceiling, whatever Content-Length says. */

import { ChatError } from "../errors.ts";
import { bodyPiecesMaxOf } from "../limits.ts";
import { parseJsonBody } from "../protocol/routes.ts";

const JSON_TYPE = /^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?(;\s*)?$/i;

/** Refuses with `unsupported_media_type`, `payload_too_large` or `invalid_request`. */
export async function readJsonBody(request: Request, bytesMax: number): Promise<unknown> {
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (!JSON_TYPE.test(request.headers.get("content-type") ?? "") || encoding.toLowerCase() !== "identity") {
    throw new ChatError("unsupported_media_type");
  }
  const tooLarge = new ChatError("payload_too_large", { text: `The body is longer than ${bytesMax} bytes.` });
  if (Number(request.headers.get("content-length") ?? 0) > bytesMax) throw tooLarge;

  const decoder = new TextDecoder("utf-8", { fatal: true });
  const piecesMax = bodyPiecesMaxOf(bytesMax);
  let text = "";
  let bytes = 0;
  let pieces = 0;
  try {
    for await (const chunk of request.body ?? []) {
      bytes += chunk.byteLength;
      pieces += 1;
      if (bytes > bytesMax) throw tooLarge;
      if (pieces > piecesMax) throw notWhole(`must come in at most ${piecesMax} pieces`);
      text += decoder.decode(chunk, { stream: true });
    }
    text += decoder.decode();
  } catch (error) {
    if (error instanceof ChatError) throw error;
    // Not UTF-8, or the caller went away in the middle.
    throw notWhole("must be a whole body of UTF-8");
  }
  return parseJsonBody(text);
}

const notWhole = (message: string) => new ChatError("invalid_request", { issues: [{ path: "", message }] });
