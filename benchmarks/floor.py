"""The bare server: the same frames on the same sockets, and nothing behind them. `python -m benchmarks.floor PORT`

No session, no rows, no limits, no deadlines, one process, and every call forgotten when it ends: what is left of a
call's cost when everything is taken away that makes it a call one can rely on. Imports nothing of the product.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

decode = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode

users: dict[str, set[Socket]] = {}
calls: dict[str, Call] = {}


class Call:
    def __init__(self, id: str, caller: Socket, callee: str) -> None:
        self.id, self.caller, self.callee = id, caller, callee
        self.winner: Socket | None = None
        self.state = "ringing"
        self.v = 1

    def view(self, socket: Socket) -> dict[str, Any]:
        ringing = self.winner is None and socket is not self.caller
        me = {"state": "ringing" if ringing else "joined", "here": socket in (self.caller, self.winner)}
        legs = [{"user": self.caller.user, "state": "joined"}, {"user": self.callee, "state": me["state"]}]
        return {"id": self.id, "v": self.v, "state": self.state, "me": me, "legs": legs}

    def tell(self) -> None:
        for socket in (self.caller, *users.get(self.callee, ())):
            socket.send({"t": "call", "call": self.view(socket)})


class Socket(WSListener):
    user = ""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        users.get(self.user, set()).discard(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self.obey(decode(frame.get_payload_as_bytes()))

    def send(self, frame: dict[str, Any]) -> None:
        self.transport.send(WSMsgType.TEXT, encode(frame))

    def reply(self, said: dict[str, Any], call: Call | None) -> None:
        if call is None:
            self.send({"t": "reply", "re": said["id"], "ok": False, "error": {"code": "not_allowed"}})
        else:
            self.send({"t": "reply", "re": said["id"], "ok": True, "call": call.view(self)})

    def obey(self, said: dict[str, Any]) -> None:
        match said["cmd"]:
            case "hello":
                self.user = said["device"]["name"].partition("/")[0]  # there is no session to know it from
                users.setdefault(self.user, set()).add(self)
                self.send({"t": "welcome", "re": said["id"], "device": {"id": said["device"]["name"]}})
            case "invite":
                call = calls[said["call"]] = Call(said["call"], self, said["to"][0])
                call.tell()
                self.reply(said, call)
            case "answer":
                answered = calls.get(said["call"])
                if answered is not None and answered.winner is None:
                    answered.winner, answered.state, answered.v = self, "active", answered.v + 1
                    answered.tell()
                self.reply(said, answered if answered and answered.winner is self else None)
            case "hangup":
                over = calls.pop(said["call"], None)
                if over is not None:
                    over.state, over.v = "ended", over.v + 1
                    over.tell()
                self.reply(said, over)
            case "signal":
                held = calls.get(said["call"])
                if held is not None and held.winner is not None:
                    other = held.winner if self is held.caller else held.caller
                    sender = {"user": self.user, "epoch": 1}
                    other.send({"t": "signal", "call": held.id, "from": sender, "body": said["body"]})


def socket_for(_request: WSUpgradeRequest) -> Socket:
    return Socket()


async def main() -> None:
    server = await ws_create_server(socket_for, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
