"""Task "noisy": a bakery's dispatcher fills in three fields per order; the model samples, and only perfect forms score.

Mechanics. As "conventions" (museum.py) with 17 conventions over eight goods, five kinds of customers and six
circumstances. The policy model's choices carry noise that is drawn anew for each draw of the same prompt and input, and
5 % of its answers are malformed. The score is 1 where all three fields are right and the answer is raw JSON, else 0, so
that single scores say little and a lucky candidate looks good.
"""

from .forms import load

NOISY = load("noisy", "bakery.toml", is_binary=True, noise=0.25, slips=0.05)
