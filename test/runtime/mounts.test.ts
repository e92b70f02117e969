/** What Linux tells of its mounts, read without mounting anything. */

import { expect, test } from "bun:test";
import { isMountPoint, readMountInfo } from "../../src/runtime/mounts.ts";

// As a container sees a file and a folder that were mounted into it, and one whose name has a blank and a backslash.
const MOUNTS = `1215 1101 0:52 / / rw,relatime master:372 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A
1216 1215 0:55 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1230 1215 254:1 /srv/chat.db /data/chat.db rw,relatime - ext4 /dev/vda1 rw,discard
1231 1215 254:1 /srv/folder /other rw,relatime - ext4 /dev/vda1 rw,discard
1232 1215 254:1 /srv/x /data/my\\040chat\\134.db rw,relatime shared:7 - ext4 /dev/vda1 rw
`;

test("isMountPoint knows what is mounted exactly there, and nothing above or below it", () => {
  const points = ["/", "/proc", "/data/chat.db", "/other", "/data/my chat\\.db"];
  expect(points.filter((path) => !isMountPoint(MOUNTS, path))).toEqual([]);
  const others = ["/data", "/data/chat.db-wal", "/other/chat.db", "/srv/chat.db", "", "254:1"];
  expect(others.filter((path) => isMountPoint(MOUNTS, path))).toEqual([]);
});

test("readMountInfo has the root, where the system tells of mounts", () => {
  expect(isMountPoint(readMountInfo(), "/")).toBe(process.platform === "linux");
});
