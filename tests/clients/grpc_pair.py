"""A gRPC server and a gRPC client (grpcio) on both sides of the gateway: every kind of call, its metadata, deadlines, errors,
refusals, and the end of a stream whose token is revoked."""
import os
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
import requests

GATEWAY = os.environ["GATEWAY_URL"].split("/")[2]
ISSUER = os.environ["ISSUER"]
MACHINE = (os.environ["MACHINE_ID"], os.environ["MACHINE_SECRET"])
TRUSTED = os.environ.get("GRPC_UPSTREAM_PORT")


def ok(what):
    print("ok", what, flush=True)


def fits(so, what):
    if not so:
        sys.exit(f"not so: {what}")


seen = {}


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Fails": grpc.unary_unary_rpc_method_handler(fails),
            "Late": grpc.unary_unary_rpc_method_handler(late),
            "Down": grpc.unary_stream_rpc_method_handler(down),
            "Up": grpc.stream_unary_rpc_method_handler(up),
            "Both": grpc.stream_stream_rpc_method_handler(both),
        }
        return handlers.get(name)


def unary(request, context):
    seen["metadata"] = dict(context.invocation_metadata())
    seen["left"] = context.time_remaining()
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"), ("x-octets-bin", b"\x00\xff")))
    return request[::-1]


def fails(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")


def late(request, context):
    time.sleep(3)
    return b""


def down(request, context):
    for n in range(100):
        yield b"%d" % n


def up(requests_, context):
    return b"%d" % sum(len(r) for r in requests_)


def both(requests_, context):
    for request in requests_:
        yield b"you said " + request


def token(scope):
    answer = requests.post(f"{ISSUER}/token", auth=MACHINE, data={"grant_type": "client_credentials", "scope": scope}, timeout=10)
    answer.raise_for_status()
    return answer.json()["access_token"]


def main():
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Echo(),))
    server.add_insecure_port(f"127.0.0.1:{TRUSTED}")
    server.start()
    channel = grpc.insecure_channel(GATEWAY)
    read = token("read")
    with_token = (("authorization", f"Bearer {read}"),)

    def call(kind, method, service="test.Echo"):
        return getattr(channel, kind)(f"/{service}/{method}")

    unary_call = call("unary_unary", "Unary")
    answer, done = unary_call.with_call(b"abc", metadata=with_token + (("x-mine", "7"), ("x-mine-bin", b"\x01")), timeout=20)
    trailing = dict(done.trailing_metadata())
    fits(answer == b"cba" and dict(done.initial_metadata())["x-first"] == "1", "the answer and its first metadata")
    fits(trailing["x-last"] == "2" and trailing["x-octets-bin"] == b"\x00\xff", f"trailers: {trailing}")
    metadata = seen["metadata"]
    fits(metadata["x-mine"] == "7" and metadata["x-mine-bin"] == b"\x01", f"metadata: {metadata}")
    fits(metadata["x-doorward-client"] == MACHINE[0] and "authorization" not in metadata, f"identity: {metadata}")
    ok("unary")
    fits(0 < seen["left"] <= 20, f"the deadline is known upstream: {seen['left']}")
    ok("deadline passed on")
    try:
        call("unary_unary", "Late")(b"", metadata=with_token, timeout=1)
        sys.exit("no deadline")
    except grpc.RpcError as error:
        fits(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error)
    ok("deadline kept")
    try:
        call("unary_unary", "Fails")(b"", metadata=with_token, timeout=20)
        sys.exit("no error")
    except grpc.RpcError as error:
        fits(error.code() == grpc.StatusCode.NOT_FOUND and error.details() == "nothing here", error)
        fits(dict(error.trailing_metadata())["x-why"] == "because", error.trailing_metadata())
    ok("error of the server")
    fits(len(list(call("unary_stream", "Down")(b"", metadata=with_token, timeout=20))) == 100, "a stream down")
    ok("server streaming")
    fits(call("stream_unary", "Up")(iter([b"x" * 70_000] * 20), metadata=with_token, timeout=20) == b"1400000", "a stream up")
    ok("client streaming")
    say = queue.Queue()
    stream = call("stream_stream", "Both")(iter(say.get, None), metadata=with_token, timeout=60)
    for word in (b"one", b"two"):
        say.put(word)
        fits(next(stream) == b"you said " + word, word)
    say.put(None)
    fits(not list(stream) and stream.code() == grpc.StatusCode.OK, "the end of it")
    ok("bidirectional streaming")

    def refused(metadata, method="Unary", service="test.Echo"):
        before = dict(seen)
        try:
            call("unary_unary", method, service)(b"abc", metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            fits(before == seen, "the server saw it")
            told = list(error.initial_metadata() or ()) + list(error.trailing_metadata() or ())
            return error.code(), [value for name, value in told if name == "www-authenticate"]
        sys.exit("not refused")

    seen.clear()
    code, told = refused(())
    fits(code == grpc.StatusCode.UNAUTHENTICATED and any(t.startswith("Bearer") for t in told), (code, told))
    code, told = refused((("authorization", "Bearer a.b.c"),))
    fits(code == grpc.StatusCode.UNAUTHENTICATED and "invalid_token" in told[0], (code, told))
    ok("unauthenticated")
    code, told = refused(with_token, service="test.Write")
    fits(code == grpc.StatusCode.PERMISSION_DENIED and "insufficient_scope" in told[0], (code, told))
    ok("permission denied")
    fits(refused(with_token, service="test.Nowhere")[0] == grpc.StatusCode.UNIMPLEMENTED, "no route")
    ok("unimplemented")
    fits(refused(with_token, service="test.Gone")[0] == grpc.StatusCode.UNAVAILABLE, "no server")
    ok("unavailable")
    call("unary_unary", "Unary", "test.Few")(b"", metadata=with_token, timeout=20)
    seen.clear()
    fits(refused(with_token, service="test.Few")[0] == grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
    ok("resource exhausted")

    say = queue.Queue()
    stream = call("stream_stream", "Both")(iter(say.get, None), metadata=with_token, timeout=60)
    say.put(b"one")
    fits(next(stream) == b"you said one", "a stream that stays open")
    ended = {}

    def follow():
        try:
            list(stream)
        except grpc.RpcError as error:
            ended["code"] = error.code()
        ended["at"] = time.monotonic()

    following = threading.Thread(target=follow)
    following.start()
    began = time.monotonic()
    requests.post(f"{ISSUER}/revoke", auth=MACHINE, data={"token": read}, timeout=10).raise_for_status()
    following.join(5)
    fits(not following.is_alive() and ended["at"] - began < 2, "the stream outlived its token")
    fits(ended["code"] == grpc.StatusCode.UNAUTHENTICATED, ended)
    ok("ended with its token")
    say.put(None)
    channel.close()
    server.stop(None)


main()
