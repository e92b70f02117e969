/** What an import `with { type: "file" }` of these gives: where the file is, also inside a compiled program. */

declare module "*/socket.io-client/dist/socket.io.js" {
  const path: string;
  export = path;
}
declare module "*/socket.io-client/dist/socket.io.min.js" {
  const path: string;
  export = path;
}
declare module "*/socket.io-client/dist/socket.io.esm.min.js" {
  const path: string;
  export = path;
}
declare module "*.js.map" {
  const path: string;
  export = path;
}
