"""What must hold between the rows of a run, as SQL.

Every chain of every round has one *state* in each unit that holds the chain: `pair`, `error`,
`stopped` (its unit has an earlier error row of it, or a pair with the reason why it ends there),
`not_committed`, `unknown` (its unit has a file or a receipt of this or an earlier round that cannot
be read) or `lost`. What counts is the state in the unit of the highest generation: replays take the
place of what failed.

Limits: `$num_rounds` and `$is_loop` are filled in by `rows.py`, as numbers and words of its own.
"""

from pipelines.verify.report import Kind

TABLES = """
create table chains (chain_id varchar, unit_id varchar, unit_index integer,
    seed uhugeint, is_bad boolean);
create table beginnings (chain_id varchar, round_index integer, seed uhugeint);
create table units (unit_id varchar, unit_index integer, generation integer, start_round integer);
create table replayed (unit_id varchar, chain_id varchar);
create table receipts (unit_id varchar, round_index integer, is_whole boolean, num_stopped bigint,
    num_replaced_errors bigint, num_replaced_stopped bigint);
create table entries (unit_id varchar, round_index integer, is_pair boolean, chain_id varchar,
    parent_id varchar, seed uhugeint, prompt uhugeint, description uhugeint, stage varchar,
    stop_reason varchar);
"""

STATES = """
-- Every row with the seed that is due: what its chain began with, or last began anew with.
create view lines as
    select e.*, b.seed as due,
        not $is_loop or e.round_index = coalesce(b.round_index, 0) as is_first
    from entries e asof left join beginnings b
        on e.chain_id = b.chain_id and e.round_index >= b.round_index;
create table members as
    select u.unit_id, c.chain_id from units u join chains c using (unit_id) where generation = 0
    union all
    select unit_id, chain_id from replayed;
-- Every (unit, round) up to the unit's last receipt. Where there is none between, it is not whole.
create table commits as
    select u.unit_id, u.generation, u.start_round, n.round_index::integer as round_index,
        r.unit_id is not null as has_receipt, coalesce(r.is_whole, false) as is_whole,
        r.num_stopped, r.num_replaced_errors, r.num_replaced_stopped
    from units u
    join (select unit_id, max(round_index) as last_round from receipts group by all) l
        using (unit_id)
    join range($num_rounds) n(round_index)
        on n.round_index between u.start_round and l.last_round
    left join receipts r on r.unit_id = u.unit_id and r.round_index = n.round_index;
create table deaths as
    select unit_id, chain_id, min(round_index) as round_index
    from entries where not is_pair or stop_reason is not null group by all;
create table states as
with
    broken as (select unit_id, min(round_index) as round_index
        from commits where not is_whole group by all),
    found as (select unit_id, chain_id, round_index, bool_or(is_pair) as has_pair
        from entries group by all),
    asked as (select m.unit_id, u.generation, u.start_round, m.chain_id,
            n.round_index::integer as round_index
        from members m join units u using (unit_id)
        join range($num_rounds) n(round_index) on n.round_index >= u.start_round)
select a.*, case
        when f.has_pair then 'pair'
        when f.has_pair is not null then 'error'
        when c.unit_id is null then 'not_committed'
        when b.round_index <= a.round_index then 'unknown'
        when d.round_index < a.round_index then 'stopped'
        else 'lost'
    end as state
from asked a
left join found f using (unit_id, chain_id, round_index)
left join commits c using (unit_id, round_index)
left join broken b on b.unit_id = a.unit_id
left join deaths d on d.unit_id = a.unit_id and d.chain_id = a.chain_id;
create table current as
    select chain_id, round_index, arg_max(state, generation) as state
    from states group by all;
"""

# Each gives unit, round, number of rows and one of them.
FAULTS: list[tuple[Kind, str, str]] = [
    (
        "lost",
        "no receipt, though a later round has one",
        """select c.unit_id, c.round_index, greatest(count(m.chain_id), 1), null
        from commits c left join members m using (unit_id) where not has_receipt group by all""",
    ),
    (
        "lost",
        "chains without a row, and without an error row or an end before",
        """select unit_id, round_index, count(*), min(chain_id)
        from states where state = 'lost' group by all""",
    ),
    (
        "duplicated",
        "rows of a chain that has one already in this unit and round",
        """select unit_id, round_index, sum(number - 1)::bigint, min(chain_id)
        from (select unit_id, round_index, chain_id, count(*) as number from entries group by all)
        where number > 1 group by all""",
    ),
    (
        "duplicated",
        "rows that another unit of the same generation has as well",
        """select unit_id, round_index, count(*), min(chain_id)
        from (select max(unit_id) as unit_id, round_index, chain_id from states
            where state in ('pair', 'error')
            group by round_index, chain_id, generation having count(*) > 1) group by all""",
    ),
    (
        "duplicated",
        "replays of what is a pair already",
        """select distinct on (unit_id, chain_id) hi.unit_id, hi.start_round, 1, hi.chain_id
        from states hi join states lo using (chain_id, round_index)
        where hi.generation > lo.generation and lo.state = 'pair'""",
    ),
    (
        "unexpected",
        "replays of what is no dead letter",
        """select unit_id, round_index, count(*), min(chain_id)
        from (select hi.unit_id, hi.round_index, hi.chain_id,
                arg_max(lo.state, lo.generation) as state
            from states hi join states lo using (chain_id, round_index)
            where hi.generation > lo.generation and hi.round_index = hi.start_round group by all)
        where state in ('stopped', 'not_committed') group by all""",
    ),
    (
        "unexpected",
        "rows of chains that are not this unit's",
        """select unit_id, round_index, count(*), min(chain_id)
        from entries anti join members using (unit_id, chain_id) group by all
        union all
        select m.unit_id, u.start_round, count(*), min(m.chain_id)
        from members m join units u using (unit_id)
        anti join chains c on c.chain_id = m.chain_id and c.unit_index = u.unit_index
        group by all""",
    ),
    (
        "unexpected",
        "rows of chains that failed or ended in an earlier round",
        """select e.unit_id, e.round_index, count(*), min(chain_id)
        from entries e join deaths d using (unit_id, chain_id)
        where e.round_index > d.round_index group by all""",
    ),
    (
        "unexpected",
        "bad seeds that have something else than a dead letter of stage seed, or the reverse",
        """select e.unit_id, e.round_index, count(*), min(chain_id)
        from entries e join chains c using (chain_id) join units u on u.unit_id = e.unit_id
        where coalesce(e.stage = 'seed', false) <> c.is_bad
            or (c.is_bad and (e.round_index > 0 or u.generation > 0)) group by all""",
    ),
    (
        "receipt",
        "num_stopped or num_replaced_* are not what the rows say",
        """with stopped as (select unit_id, round_index, count(*) as number,
                count(*) filter (state = 'stopped') as num_stopped,
                bool_or(state = 'unknown') as is_unknown
            from states group by all)
        select c.unit_id, c.round_index, 1, null
        from commits c left join stopped s using (unit_id, round_index)
        where c.is_whole and not coalesce(s.is_unknown, false) and (
            c.num_stopped <> coalesce(s.num_stopped, 0)
            or c.num_replaced_errors <> if(
                c.generation > 0 and c.round_index = c.start_round, coalesce(s.number, 0), 0)
            or c.num_replaced_stopped <> if(
                c.generation > 0 and c.round_index > c.start_round, coalesce(s.number, 0), 0))""",
    ),
    (
        "lineage",
        "rows with a seed that is not what their chain began with, or last began anew with",
        """select unit_id, round_index, count(*), min(chain_id)
        from lines where due is not null and seed is distinct from due group by all""",
    ),
    (
        "lineage",
        "first rows, of chains that begin or begin anew, with a parent or a prompt that is not due",
        """select unit_id, round_index, count(*), min(chain_id)
        from lines where due is not null and is_first and (parent_id is not null
            or prompt is distinct from due and not (prompt is null and stage = 'seed'))
        group by all""",
    ),
    (
        "lineage",
        "rows whose parent_id is not the pair of the round before",
        """select unit_id, round_index, count(*), min(chain_id) from lines
        where not is_first
            and parent_id is distinct from format('{}-{:03d}', chain_id, round_index - 1)
        group by all""",
    ),
    (
        "lineage",
        "rows whose parent does not exist",
        """select e.unit_id, e.round_index, count(*), min(e.chain_id)
        from entries e left join current c
            on c.chain_id = e.chain_id and c.round_index = e.round_index - 1
        where e.round_index > 0 and $is_loop and e.is_pair
            and coalesce(c.state, 'stopped') in ('error', 'stopped', 'not_committed')
        group by all""",
    ),
    (
        # Which of the two was altered cannot be told: both ends are named.
        "lineage",
        "descriptions that are not the prompt of the row that was made from them",
        """with breaks as (
            select p.unit_id as parent_unit, e.unit_id, e.round_index, e.chain_id
            from lines e join entries p
                on p.chain_id = e.chain_id and p.round_index = e.round_index - 1 and p.is_pair
            where not e.is_first and e.prompt is distinct from p.description)
        select parent_unit, round_index - 1, count(*), min(chain_id) from breaks group by all
        union all
        select unit_id, round_index, count(*), min(chain_id) from breaks
        where unit_id <> parent_unit group by all""",
    ),
]
