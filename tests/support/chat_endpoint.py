"""A small server on loopback that speaks chat completions, as an endpoint does: it answers what the test scripts."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """`script`: functions of the request's body, one a request, the last for all that follow; each gives a message (see
    `calls` and `reply`) or an (HTTP status, body). `requests` are the bodies, `headers` (lower case) came with each."""

    def __init__(self, script, *, usage=(1000, 100)):
        self.script, self.usage = list(script), usage
        self.requests, self.headers = [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer, headers = endpoint.answer(
                    self.path, body, {name.lower(): value for name, value in self.headers.items()}
                )
                data = json.dumps(answer).encode()
                with contextlib.suppress(OSError):  # who asked may have gone
                    self.send_response(status)
                    for name, value in {**headers, "Content-Type": "application/json"}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, path, body, headers):
        assert path == "/v1/chat/completions", path
        self.requests.append(body)
        self.headers.append(headers)
        turn = self.script[min(len(self.requests), len(self.script)) - 1]
        said = turn(body) if callable(turn) else turn
        if isinstance(said, tuple):
            return (*said, {}) if len(said) == 2 else said
        sent, back = self.usage
        usage = {"prompt_tokens": sent, "completion_tokens": back, "total_tokens": sent + back}
        reason = "tool_calls" if said.get("tool_calls") else "stop"
        choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": None, **said}}
        whole = {"id": "c", "object": "chat.completion", "created": int(time.time()), "model": body["model"]}
        return 200, {**whole, "choices": [choice], **({"usage": usage} if sent else {})}, {}

    @property
    def sent(self):
        """Everything that ever reached it, as one text."""
        return json.dumps([self.requests, self.headers], ensure_ascii=False)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def calls(*wanted):
    """A message that calls tools: (name, arguments) each."""
    rows = [
        {"id": f"t{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for number, (name, arguments) in enumerate(wanted)
    ]
    return {"tool_calls": rows}


def reply(**parts):
    """A message with an answer in its form, by the tool for it."""
    return calls(("answer", {"summary": "it may be the heap", "hypotheses": [], **parts}))


def hypothesis(*evidence, claim="the heap grew", **parts):
    return {"claim": claim, "confidence": 0.6, "evidence": list(evidence), "disproved_by": "a flat heap", **parts}


def documents_in(body):
    """The documents of the first message a request has of a person, by their ids."""
    prompt = next(each["content"] for each in body["messages"] if each["role"] == "user")
    text = prompt if isinstance(prompt, str) else "".join(part["text"] for part in prompt)
    return {each["id"]: each["document"] for each in json.loads(text)["documents"]}
