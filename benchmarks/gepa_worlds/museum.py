"""Task "conventions": a museum's registrar fills in the handling sheet of an object; 43 house conventions are hidden.

Mechanics. A record names one of fourteen materials, a lender, a period and up to three circumstances. Six fields with
3 to 5 values follow from a table of conventions (first match of a field counts), a third of them against common sense.
The score is the share of right fields, times 0.7 where the answer is not a raw JSON object. Feedback names each wrong
field with what was expected, and gives the convention for half of them. The policy model is a clerk (clerk.py).
"""

from .forms import load

CONVENTIONS = load("conventions", "museum.toml")
