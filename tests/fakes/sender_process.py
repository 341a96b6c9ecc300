"""A process that sends messages to webhooks until it is ended.

python -m tests.fakes.sender_process URL LEASE_SECONDS
"""

import asyncio
import sys

from promptjobs.clients.http import Outgoing
from promptjobs.db.session import Database
from promptjobs.jobs.webhooks import WebhookSender
from tests.fakes.webhooks import courier_of


async def main(url: str, lease_seconds: float) -> None:
    async with Outgoing(allow_loopback=True) as outgoing:
        await WebhookSender(Database.open(url).connect, courier_of(outgoing), lease_seconds=lease_seconds).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
