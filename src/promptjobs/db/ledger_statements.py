"""The SQL of the ledger; `SETTLING` is shared with the statement that records calls."""

SETTLING = """
released AS (
    DELETE FROM holds USING (SELECT hold_id FROM due WHERE hold_id IS NOT NULL) d WHERE holds.id = d.hold_id
    RETURNING holds.id, holds.organisation, holds.tokens, holds.usd
), sums AS (
    SELECT d.job_id, d.category, max(h.organisation) AS organisation,
           sum(d.calls) AS calls,
           count(*) FILTER (WHERE d.usd IS NULL AND d.calls > 0 AND coalesce(h.usd, 0) = 0) AS unpriced,
           coalesce(sum(d.tokens), 0) AS tokens, coalesce(sum(d.usd), 0) AS usd,
           coalesce(sum(h.tokens), 0) AS held_tokens, coalesce(sum(h.usd), 0) AS held_usd,
           coalesce(sum(h.tokens) FILTER (WHERE d.tokens IS NULL), 0) AS unsettled_tokens,
           coalesce(sum(h.usd) FILTER (WHERE d.usd IS NULL), 0) AS unsettled_usd
    FROM due d LEFT JOIN released h ON h.id = d.hold_id GROUP BY d.job_id, d.category
), accounts AS MATERIALIZED (
    SELECT FROM ledger WHERE (job_id, category) IN (SELECT job_id, category FROM sums)
    ORDER BY job_id, category FOR UPDATE
), settled AS (
    UPDATE ledger l SET
        calls = l.calls + s.calls, unpriced_calls = l.unpriced_calls + s.unpriced,
        tokens = l.tokens + s.tokens, usd = l.usd + s.usd,
        held_tokens = l.held_tokens - s.held_tokens, held_usd = l.held_usd - s.held_usd,
        unsettled_tokens = l.unsettled_tokens + s.unsettled_tokens,
        unsettled_usd = l.unsettled_usd + s.unsettled_usd
    FROM sums s
    WHERE l.job_id = s.job_id AND l.category = s.category AND (SELECT count(*) FROM accounts) >= 0
), debits AS (
    SELECT coalesce(s.organisation, j.organisation) AS organisation,
           sum(s.usd + s.unsettled_usd) AS usd, sum(s.held_usd) AS held_usd
    FROM sums s LEFT JOIN jobs j ON j.id = s.job_id GROUP BY 1
), purses AS MATERIALIZED (
    SELECT FROM balances WHERE organisation IN (SELECT organisation FROM debits)
    AND (SELECT count(*) FROM accounts) >= 0 ORDER BY organisation FOR UPDATE
), debited AS (
    UPDATE balances b SET
        usd = b.usd - d.usd, held_usd = greatest(b.held_usd - d.held_usd, 0), updated_at = clock_timestamp()
    FROM debits d WHERE b.organisation = d.organisation AND (SELECT count(*) FROM purses) >= 0
)"""
"""The CTEs after `due(job_id, category, hold_id, usd, tokens, calls)`, in which NULL for usd or tokens is unknown.

Locks are taken in the order ledger, balances, each sorted, as by those that reserve: the counts in the conditions make
sure that all locks are held before the first row is changed. A balance that was opened while a hold was out does not
know of that hold, hence `greatest`.
"""

SETTLE = f"""
WITH due AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::numeric[], $5::bigint[], $6::int[])
    AS d(job_id, category, hold_id, usd, tokens, calls)
), {SETTLING}
SELECT WHERE false
"""

EXPIRE = f"""
WITH late AS MATERIALIZED (
    SELECT id, job_id, category FROM holds WHERE expires_at <= clock_timestamp() OR holder = ANY($1::bigint[])
    ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED
), due AS (
    SELECT job_id, category, id AS hold_id, NULL::numeric AS usd, NULL::bigint AS tokens, 1 AS calls FROM late
), {SETTLING}
SELECT count(*)::int FROM released
"""

ACCOUNT_COLUMNS = (
    *("category", "calls", "unpriced_calls", "tokens", "usd"),
    *("held_tokens", "held_usd", "unsettled_tokens", "unsettled_usd"),
)

LOCK = """
WITH accounts AS MATERIALIZED (
    SELECT job_id, category, tokens, usd, held_tokens, held_usd, unsettled_tokens, unsettled_usd
    FROM ledger WHERE job_id = ANY($1::text[]) ORDER BY job_id, category FOR UPDATE
), purses AS MATERIALIZED (
    SELECT organisation, usd, held_usd FROM balances
    WHERE organisation = ANY($2::text[]) AND (SELECT count(*) FROM accounts) >= 0
    ORDER BY organisation FOR UPDATE
)
SELECT job_id AS name, category, tokens, usd, held_tokens, held_usd, unsettled_tokens, unsettled_usd FROM accounts
UNION ALL
SELECT organisation, NULL, 0, usd, 0, held_usd, 0, 0 FROM purses
"""
"""Rows with a category are accounts of the job `name`; the others are balances of the organisation `name`."""

THERE = "SELECT id FROM holds WHERE id = ANY($1::bytea[])"

HOLD = """
WITH new AS (
    INSERT INTO holds(id, job_id, organisation, category, tokens, usd, expires_at, holder)
    SELECT id, job_id, organisation, category, tokens, usd, clock_timestamp() + make_interval(secs => lifetime), $8
    FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::numeric[], $7::float8[])
    AS h(id, job_id, organisation, category, tokens, usd, lifetime)
    ON CONFLICT DO NOTHING RETURNING job_id, organisation, category, tokens, usd
), held AS (
    UPDATE ledger l SET held_tokens = l.held_tokens + n.tokens, held_usd = l.held_usd + n.usd
    FROM (SELECT job_id, category, sum(tokens) AS tokens, sum(usd) AS usd FROM new GROUP BY 1, 2) n
    WHERE l.job_id = n.job_id AND l.category = n.category
)
UPDATE balances b SET held_usd = b.held_usd + n.usd, updated_at = clock_timestamp()
FROM (SELECT organisation, sum(usd) AS usd FROM new GROUP BY 1) n WHERE b.organisation = n.organisation
"""
"""Only for rows that `LOCK` has locked."""

LIVE = "SELECT pg_advisory_lock_shared($1)"
"""Shared: a process that connects again need not wait until the server has noticed the end of its old connection."""

ORPHANED = """
SELECT DISTINCT holder FROM holds WHERE holder IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND ((l.classid::bigint << 32) | l.objid::bigint) = holds.holder
)
"""
"""Locks on a bigint stand in pg_locks in two halves."""

SPENDING = f"SELECT {', '.join(ACCOUNT_COLUMNS)} FROM ledger WHERE job_id = $1"
