/** Reading a JSON body: as a stream, stopped at the ceiling, whatever Content-Length says. */

import { ChatError } from "../errors.ts";
import { bodyPiecesMaxOf } from "../limits.ts";
import { parseJsonBody } from "../protocol/routes.ts";

const JSON_TYPE = /^application\/json[ \t]*/i;
/** One parameter of a media type (RFC 9110, 5.6.6); nothing behind the semicolon is one too. */
const PARAMETER =
  /;[ \t]*(?:([!#$%&'*+.^_`|~\w-]+)[ \t]*=[ \t]*([!#$%&'*+.^_`|~\w-]+|"(?:[^"\\]|\\.)*"))?[ \t]*/y;
const UTF8 = /^"?utf-?8"?$/i;

/** Whether a body of this type is JSON in UTF-8. Parameters other than `charset` mean nothing for JSON, and are ignored. */
function isJson(contentType: string): boolean {
  const type = JSON_TYPE.exec(contentType);
  if (type === null) return false;
  for (let at = type[0].length; at < contentType.length; at = PARAMETER.lastIndex) {
    PARAMETER.lastIndex = at;
    const parameter = PARAMETER.exec(contentType);
    if (parameter === null) return false;
    const [, name, value = ""] = parameter;
    if (name?.toLowerCase() === "charset" && !UTF8.test(value)) return false;
  }
  return true;
}

/** Refuses with `unsupported_media_type`, `payload_too_large` or `invalid_request`. */
export async function readJsonBody(request: Request, bytesMax: number): Promise<unknown> {
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (!isJson(request.headers.get("content-type") ?? "") || encoding.toLowerCase() !== "identity") {
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
