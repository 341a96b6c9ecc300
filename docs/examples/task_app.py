"""A task app in 30 lines, with nothing but the standard library: python docs/examples/task_app.py"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

PROMPT = "Classify the message. Labels: card_not_working, pending_transfer, refund_not_received."
EXAMPLES = [  # your data: a seed is an index into it
    ("The chip of my card is not read by any machine", "card_not_working"),
    ("My salary was sent on Monday and is still not here", "pending_transfer"),
    ("The shop promised my money back two weeks ago", "refund_not_received"),
] * 20


def rollout(seed, policy):
    """Run your program on one example and score what came out."""
    text, label = EXAMPLES[seed]
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": f"Message: {text}"}]
    body = json.dumps({"model": policy["model"], "messages": messages}).encode()
    with urlopen(Request(policy["inference_url"] + "/chat/completions", body), timeout=60) as reply:
        answer = json.load(reply)["choices"][0]["message"]["content"]
    score = float(answer.strip() == label)
    feedback = "Right." if score else f"The answer must be {label!r} and nothing else."
    return {"metrics": {"outcome_reward": score, "details": {"output": answer, "feedback": feedback}}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"healthy": True} if self.path == "/health" else {"taskset": {"id": "messages"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(rollout(body["env"]["seed"], body["policy"]["config"]))

    def reply(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8701), Handler).serve_forever()
