import assert from "node:assert/strict";
import { test } from "node:test";

import { Sessions } from "../../calls/static/calls/sessions.js";
import { Clock } from "./fakes.mjs";

globalThis.MediaStream ??= class {
  getTracks() {
    return [];
  }
};

class FakeMedia {
  mic = true;
  cam = false;
  screen = false;
  problem = null;
  tracks = { audio: { kind: "audio" }, video: null };
  closed = false;
  async open({ mic, cam }) {
    Object.assign(this, { mic, cam });
  }
  async setCam(on) {
    this.cam = on;
  }
  close() {
    this.closed = true;
  }
  get sendsAudio() {
    return this.mic;
  }
  get sendsVideo() {
    return this.cam;
  }
}

class FakePeer {
  link = "up";
  has = false;
  closed = false;
  notes = [];
  received = {};
  constructor(options) {
    this.options = options;
  }
  async flowing() {
    return this.has;
  }
  note(note) {
    this.notes.push(note);
  }
  bound(bound) {
    this.bounds = bound;
  }
  setTrack() {}
  close() {
    this.closed = true;
  }
}

const leg = (user, dir, epoch, cam = false) => ({ user, name: user, dir, state: "joined", epoch, mic: true, cam, online: true });

function view(theirEpoch, { cam = false } = {}) {
  return {
    id: "c1", v: theirEpoch, kind: "audio", state: "active", me: { state: "joined", here: true, can: ["media", "signal"] },
    legs: [leg("me", "out", 1), leg("bob", "in", theirEpoch, cam)],
  };
}

async function inCall() {
  const clock = new Clock();
  const peers = [];
  const said = [];
  const sessions = new Sessions({
    me: "me", timers: clock, now: () => clock.now, ice: () => [], choice: () => ({}), Media: FakeMedia,
    Peer: class extends FakePeer {
      constructor(options) {
        super(options);
        peers.push(this);
      }
    },
    socket: { tell: () => true, request: async () => ({ ok: true }) },
    onChange() {}, onVideo: (_, answer) => said.push(answer), cameras: 2, onCrowded: () => said.push("crowded"),
  });
  const session = sessions.open("c1", "audio");
  await session.ready;
  sessions.follow(session, view(1));
  return { clock, peers, said, sessions, session };
}

test("the connection does not wait for the camera", async () => {
  const { sessions, peers } = await inCall();
  const opening = sessions.open("c2", "video");
  assert.equal(opening.opened, false);
  sessions.follow(opening, { ...view(1), id: "c2" });
  assert.equal(peers.length, 2);
});

test("a switch that was refused as too quick, or made meanwhile, is told in the end", async () => {
  const clock = new Clock();
  const asked = [];
  const shown = { ...view(1), legs: [leg("me", "out", 1), leg("bob", "in", 1)] };
  const answers = [{ ok: false, error: { code: "rate_limited", retry_ms: 1000 } }, { ok: true }, { ok: true }];
  const sessions = new Sessions({
    me: "me", timers: clock, now: () => clock.now, ice: () => [], choice: () => ({}), Media: FakeMedia, Peer: FakePeer,
    socket: {
      tell: () => true,
      request: async (cmd, { mic }) => {
        asked.push(mic);
        const answer = answers.shift();
        if (answer.ok) shown.legs[0].mic = mic;
        return answer;
      },
    },
    onChange: () => sessions.get("c1") && sessions.follow(sessions.get("c1"), shown),
  });
  const session = sessions.open("c1", "audio");
  await session.ready;
  session.media.mic = false;
  sessions.follow(session, shown);
  await clock.pass(4_000);
  assert.deepEqual(asked, [false]);
  await clock.pass(2_000);
  assert.deepEqual([asked, shown.legs[0].mic], [[false, false], false]);
  session.media.mic = true;
  sessions.follow(session, shown);
  await clock.pass(10);
  assert.deepEqual([asked, shown.legs[0].mic], [[false, false, true], true]);
  await clock.pass(60_000);
  assert.equal(asked.length, 3);
});

test("when the other side moves, what there is stays until what comes has media", async () => {
  const { clock, peers, sessions, session } = await inCall();
  sessions.follow(session, view(2));
  await clock.pass(500);
  assert.equal(peers[0].closed, false);
  assert.equal(sessions.shown(session, "bob").peer, peers[0]);
  peers[1].has = true;
  await clock.pass(200);
  assert.equal(peers[0].closed, true);
  assert.equal(sessions.shown(session, "bob").peer, peers[1]);
});

test("a connection that is being replaced does not stay for ever", async () => {
  const { clock, peers, sessions, session } = await inCall();
  sessions.follow(session, view(2));
  await clock.pass(7000);
  assert.equal(peers[0].closed, true);
  assert.equal(clock.pending, 0);
});

test("one that was down already is not kept", async () => {
  const { peers, sessions, session } = await inCall();
  peers[0].link = "down";
  sessions.follow(session, view(2));
  assert.equal(peers[0].closed, true);
});

test("hanging up in the middle of it closes both", async () => {
  const { clock, peers, sessions, session } = await inCall();
  sessions.follow(session, view(2));
  sessions.close("c1");
  assert.deepEqual(peers.map((one) => one.closed), [true, true]);
  await clock.pass(10_000);
  assert.equal(clock.pending, 0);
});

test("video is added when the other side agrees, and the wish is repeated until then", async () => {
  const { clock, peers, said, sessions, session } = await inCall();
  sessions.askForVideo(session);
  await clock.pass(6500);
  assert.deepEqual(peers[0].notes, [{ video: "ask" }, { video: "ask" }, { video: "ask" }]);
  assert.equal(session.media.cam, false);
  peers[0].options.onNote({ video: "yes" });
  await clock.pass(0);
  assert.deepEqual([session.video, session.media.cam, said], ["on", true, ["yes"]]);
  await clock.pass(60_000);
  assert.equal(peers[0].notes.length, 3);
});

test("a wish for video that is declined, or not answered, changes nothing", async () => {
  for (const [answer, expected] of [["no", "no"], [null, "unanswered"]]) {
    const { clock, peers, said, sessions, session } = await inCall();
    sessions.askForVideo(session);
    if (answer) peers[0].options.onNote({ video: answer });
    await clock.pass(40_000);
    assert.deepEqual([session.video, session.media.cam, said], [null, false, [expected]]);
  }
});

test("nobody's camera goes on before they agreed", async () => {
  const { clock, peers, sessions, session } = await inCall();
  peers[0].options.onNote({ video: "yes" }); // to a question that nobody asked
  peers[0].options.onNote({ video: "ask" });
  await clock.pass(0);
  assert.deepEqual([session.video, session.media.cam], ["asked", false]);
  await sessions.answerVideo(session, true);
  assert.deepEqual([session.video, session.media.cam], ["on", true]);
  assert.deepEqual(peers[0].notes, [{ video: "yes" }]);
});

test("both asked at once: both agreed", async () => {
  const { clock, peers, sessions, session } = await inCall();
  sessions.askForVideo(session);
  peers[0].options.onNote({ video: "ask" });
  await clock.pass(0);
  assert.equal(session.video, "on");
  assert.deepEqual(peers[0].notes.at(-1), { video: "yes" });
});

test("a screen is announced to those who come later, too", async () => {
  const { peers, sessions, session } = await inCall();
  session.media.screen = true;
  sessions.follow(session, view(2));
  assert.deepEqual(peers[1].notes, [{ screen: true }]);
});

// `legs`: {user: [epoch, cam]} of everybody else who is joined
function group(legs, { cam = false, mine = 1 } = {}) {
  const others = Object.entries(legs).map(([user, [epoch, theirs]]) => leg(user, "in", epoch, theirs));
  return { ...view(1), kind: "video", group: true, legs: [...others, leg("me", "in", mine, cam)] };
}

test("in a group each pair has a connection, and who comes, goes or reloads disturbs no other pair", async () => {
  const { peers, sessions, session } = await inCall();
  sessions.follow(session, group({ bob: [1], carol: [1] }));
  assert.deepEqual([...session.peers.keys()], ["bob", "carol"]);
  sessions.follow(session, group({ bob: [1], carol: [1], dave: [1] }));
  sessions.follow(session, group({ bob: [2], carol: [1], dave: [1] }));
  assert.deepEqual(peers.map((one) => [one.options.theirEpoch, one.closed]), [[1, false], [1, false], [1, false], [2, false]]);
  sessions.follow(session, group({ bob: [2], dave: [1] }));
  assert.deepEqual(peers.map((one) => one.closed), [false, true, false, false]); // the first fades until the new one has media
});

test("what goes up is shared by the others of a group, and is not bounded between two", async () => {
  const { peers, sessions, session } = await inCall();
  assert.equal(peers[0].bounds, null);
  sessions.follow(session, group({ bob: [1], carol: [1] }));
  assert.deepEqual(peers.map((one) => one.bounds), Array(2).fill({ bitrate: 1_200_000, scale: 1 }));
  sessions.follow(session, group({ bob: [1], carol: [1], dave: [1], erin: [1], frank: [1], gina: [1], hans: [1], ines: [1] }));
  assert.deepEqual(peers.map((one) => one.bounds), Array(8).fill({ bitrate: 300_000, scale: 2 }));
  sessions.follow(session, group({ carol: [1] }));
  assert.equal(peers[1].bounds, null);
});

test("of several cameras that go on at once those stay that have the first places", async () => {
  const { clock, said, sessions, session } = await inCall();
  await session.media.setCam(true);
  const crowd = group({ bob: [1, true], carol: [1, true] }, { cam: true });
  sessions.follow(session, crowd);
  await clock.pass(1000);
  assert.equal(session.media.cam, true);
  await clock.pass(3000);
  assert.deepEqual([session.media.cam, said], [false, ["crowded"]]);
  assert.equal(sessions.mayBeSeen(session), false);
  sessions.follow(session, group({ bob: [1, true], carol: [1] }));
  assert.equal(sessions.mayBeSeen(session), true);
});

test("when somebody else makes room first, the camera stays on", async () => {
  const { clock, said, sessions, session } = await inCall();
  await session.media.setCam(true);
  sessions.follow(session, group({ bob: [1, true], carol: [1, true] }, { cam: true }));
  sessions.follow(session, group({ bob: [1, true], carol: [1] }, { cam: true }));
  await clock.pass(5000);
  assert.deepEqual([session.media.cam, said], [true, []]);
});

test("in a group nobody is asked for video", async () => {
  const { peers, sessions, session } = await inCall();
  sessions.askForVideo(session);
  sessions.follow(session, group({ bob: [1], carol: [1] }));
  assert.equal(session.video, null);
  peers[0].options.onNote({ video: "ask" });
  assert.equal(session.video, null);
});

test("nothing is sent while either side has the call on hold, and all of it afterwards", async () => {
  const { sessions, session, peers } = await inCall();
  const sent = [];
  peers[0].setTrack = (kind, track) => sent.push([kind, track?.kind ?? null]);
  for (const who of [0, 1]) {
    const held = view(1);
    held.legs[who].held = true;
    sessions.follow(session, held);
    sessions.follow(session, held);
    assert.deepEqual(sent.splice(0), [["audio", null], ["video", null]]);
    sessions.follow(session, view(1));
    assert.deepEqual(sent.splice(0), [["audio", "audio"], ["video", null]]);
  }
});

test("a connection that is made while the call is held starts with nothing to send", async () => {
  const { sessions, session, peers } = await inCall();
  const held = view(2);
  held.legs[0].held = true;
  sessions.follow(session, held);
  assert.deepEqual(peers[1].options.tracks, {});
});

test("a connection that is being replaced sends nothing to somebody on hold", async () => {
  const { sessions, session, peers } = await inCall();
  sessions.follow(session, view(2));
  assert.equal(peers[0].closed, false, "it fades");
  const held = view(2);
  held.legs[1].held = true;
  sessions.follow(session, held);
  assert.equal(peers[0].closed, true);
  const moved = view(3);
  moved.legs[1].held = true;
  sessions.follow(session, moved);
  assert.equal(peers[1].closed, true, "what is held does not fade");
});

test("a late answer about video turns no camera on in a call that is on hold", async () => {
  const { sessions, session, peers } = await inCall();
  sessions.askForVideo(session);
  const held = view(1);
  held.legs[0].held = true;
  sessions.follow(session, held);
  peers[0].options.onNote({ video: "yes" });
  assert.deepEqual([session.video, session.media.cam], ["asking", false]);
});
