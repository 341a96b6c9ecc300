"""A task app in 30 lines, with nothing but the standard library: python docs/examples/task_app.py"""

import json
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROMPT = "Classify the message. Labels: card_not_working, pending_transfer, refund_not_received."
EXAMPLES = [  # your data: a seed is an index into it
    ("The chip of my card is not read by any machine", "card_not_working"),
    ("My salary was sent on Monday and is still not here", "pending_transfer"),
    ("The shop promised my money back two weeks ago", "refund_not_received"),
] * 20


def rollout(seed: int, policy: dict) -> dict:
    """Run your program on one example and score what came out."""
    text, label = EXAMPLES[seed]
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": f"Message: {text}"}]
    call = urllib.request.Request(
        policy["inference_url"] + "/chat/completions",  # instead of your provider's URL; no key is needed
        json.dumps({"model": policy["model"], "messages": messages}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=60) as reply:
        answer = json.load(reply)["choices"][0]["message"]["content"]
    score = float(answer.strip() == label)
    feedback = "Right." if score else f"The answer must be {label!r} and nothing else."
    return {"metrics": {"outcome_reward": score, "details": {"output": answer, "feedback": feedback}}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply({"healthy": True} if self.path == "/health" else {"taskset": {"id": "messages"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(rollout(body["env"]["seed"], body["policy"]["config"]))

    def reply(self, body: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 8701), Handler)
    print(f"task app on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
