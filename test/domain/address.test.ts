import { expect, test } from "bun:test";
import { ratedAs } from "../../src/domain/address.ts";

test("ratedAs keeps IPv4 addresses apart, also in IPv6 clothes", () => {
  expect(ratedAs("192.0.2.7")).toBe("192.0.2.7");
  expect(ratedAs("::ffff:192.0.2.7")).toBe("192.0.2.7");
  expect(ratedAs("::FFFF:192.0.2.8")).toBe("192.0.2.8");
});

test("ratedAs gives all addresses of one /64 one name, however they are written", () => {
  const one = ratedAs("2001:db8:0:7::1");
  for (const same of [
    "2001:db8:0:7:ffff:ffff:ffff:ffff",
    "2001:0db8:0000:0007:0:0:0:2",
    "2001:DB8:0:7::",
    "2001:db8::7:1:2:3:4",
    "2001:db8:0:7::192.0.2.7",
  ])
    expect(ratedAs(same)).toBe(one);
  for (const other of ["2001:db8:0:8::1", "2001:db8::7:1:2:3", "2001:db8:7::1", "::1", "fe80::1%eth0"])
    expect(ratedAs(other)).not.toBe(one);
  expect(ratedAs("fe80::1%eth0")).toBe(ratedAs("fe80::2"));
  expect(ratedAs("::1")).toBe(ratedAs("::2"));
});

test("ratedAs bears what is no address", () => {
  for (const odd of ["", "unix", ":", "::", ":::", "1:2:3:4:5:6:7:8:9"])
    expect(typeof ratedAs(odd)).toBe("string");
});
