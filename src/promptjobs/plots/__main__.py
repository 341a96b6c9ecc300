"""The process that draws one picture: its figures as JSON on stdin, the file on stdout. It needs the extra `plots`."""

import os
import signal
import sys

from promptjobs.plots import TIME_LIMIT_SECONDS

PATIENCE_SECONDS = 5
"""Beyond the limit, whoever has asked for the picture ends this process; it ends itself where nobody is left to."""

NICENESS = 5


def main() -> None:
    signal.alarm(TIME_LIMIT_SECONDS + PATIENCE_SECONDS)
    os.nice(NICENESS)  # requests go before pictures
    # What is imported here is most of the time that a picture takes.
    from promptjobs.plots import canvas
    from promptjobs.plots.drawing import draw
    from promptjobs.plots.figures import PICTURE, PictureFormat

    canvas.configure()
    content = draw(PICTURE.validate_json(sys.stdin.buffer.read()), PictureFormat(sys.argv[1]))
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
