-- The hot path: from a node's end to the next node's start in one round trip.
--
--   runyard_claim     take the next node of a queue
--   runyard_finish    end an attempt, count down what waits for it, take the next node
--   runyard_admit     the only way to `queued` outside finish
--   runyard_fill      let a lane's next runs start
--   runyard_follow    let what waited for a run of the same cycle go on
--   runyard_take      (inside) find the capacity and the node, in that order
--   runyard_enqueue   (inside) stamp a node's turn and make it queued
--   runyard_start     (inside) write the start of an attempt
--
-- apps/engine is the specification; a property test holds the two equal. Why it is so, with
-- measurements: docs/engine.md.
--
-- Plans are made once per connection, perhaps while the tables are still small: without
-- `enable_seqscan = off` such a plan reads whole tables until the first ANALYZE, and a hop costs
-- three times as much (measured: 0.73 ms of runyard_finish itself against 0.2). And without
-- `force_generic_plan` some statements are planned anew at each call, those with an array of ids
-- for ever: a list of one looks cheaper than one of unknown length (a fifth of a finish).
--
-- Lock order: node runs by id, then the resource queue's row, then runs by id. A *next* or
-- *held* node is locked only with SKIP LOCKED, and only by one who already has the capacity
-- for it: a lock on a node that one cannot pay for would hide it from those who can.
-- Before all of these come, in this order, a backfill's row, a workflow's and a lane's; who has
-- locked a node run never asks for one of them.


-- Installed anew as a whole, since a function's result cannot be replaced.
DO $$
DECLARE
    old regprocedure;
BEGIN
    FOR old IN SELECT oid FROM pg_proc
                WHERE proname LIKE 'runyard\_%' AND pronamespace = current_schema::regnamespace
    LOOP
        EXECUTE 'DROP FUNCTION ' || old;
    END LOOP;
END $$;


-- The next turn of a flow: with the head of the line, but behind its own last node.
CREATE FUNCTION runyard_turn(p_queue bigint, p_level smallint, p_flow bigint)
RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    RETURN greatest(
        coalesce((SELECT turn FROM runs_noderun
                   WHERE state = 'queued' AND queue_id = p_queue AND level = p_level
                   ORDER BY queue_id, level DESC, turn, queued_at LIMIT 1), 0),
        coalesce((SELECT turn FROM runs_noderun
                   WHERE state = 'queued' AND queue_id = p_queue AND flow = p_flow
                     AND level = p_level
                   ORDER BY queue_id DESC, flow DESC, level DESC, turn DESC LIMIT 1) + 1, 0));
END $$;


-- Give pending nodes that lack nothing their place in line. Returns their ids.
--
-- A flow's nodes stand one turn apart, and a newcomer stands with the head of the line: so
-- flows take turns, whoever came first. Turns are compared within one queue and level; the
-- level is the priority again, however far waiting had raised it before.
CREATE FUNCTION runyard_enqueue(p_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    one record;
BEGIN
    IF cardinality(p_ids) = 1 THEN
        -- The common case, the hop of a chain, without the batch's plan.
        SELECT queue_id, priority AS level, flow INTO one FROM runs_noderun WHERE id = p_ids[1];
        UPDATE runs_noderun
           SET state = 'queued', queued_at = clock_timestamp(), reason = '', level = one.level,
               turn = runyard_turn(one.queue_id, one.level, one.flow)
         WHERE id = p_ids[1] AND state = 'pending' AND need = 0
        RETURNING id, run_id, runs_noderun.attempt INTO one;
        IF NOT FOUND THEN
            RETURN '{}';
        END IF;
        INSERT INTO runs_runevent (run_id, node_run_id, attempt, old, new, note, at)
        VALUES (one.run_id, one.id, one.attempt, 'pending', 'queued', '', clock_timestamp());
        RETURN p_ids;
    END IF;
    WITH batch AS (
        SELECT id, run_id, attempt, queue_id, priority AS level, flow,
               row_number() OVER (PARTITION BY queue_id, priority, flow ORDER BY id) - 1 AS place
          FROM runs_noderun
         WHERE id = ANY (p_ids) AND state = 'pending' AND need = 0
    ), first AS MATERIALIZED (
        SELECT g.queue_id, g.level, g.flow, runyard_turn(g.queue_id, g.level, g.flow) AS turn
          FROM (SELECT DISTINCT queue_id, level, flow FROM batch) g
    ), moved AS (
        UPDATE runs_noderun AS node
           SET state = 'queued', queued_at = clock_timestamp(), turn = first.turn + batch.place,
               level = batch.level, reason = ''
          FROM batch JOIN first USING (queue_id, level, flow)
         WHERE node.id = batch.id
        RETURNING node.id, node.run_id, node.attempt
    ), told AS (
        INSERT INTO runs_runevent (run_id, node_run_id, attempt, old, new, note, at)
        SELECT run_id, id, attempt, 'pending', 'queued', '', clock_timestamp() FROM moved
    )
    SELECT coalesce(array_agg(id), '{}') INTO ids FROM moved;
    RETURN ids;
END $$;


-- Take the next node of a queue with capacity `p_have` already in hand (that of the node
-- that just ended; 0 for a claim). The node is made running. Returns its row; nulls if there
-- is nothing to take, and then what was in hand has been given back.
CREATE FUNCTION runyard_take(
    p_queue bigint, p_have integer, p_worker text, p_request uuid, p_lease interval
) RETURNS runs_noderun
LANGUAGE plpgsql AS $$
DECLARE
    have integer := p_have;
    refused integer;            -- the smallest demand that there was no room for
    whole integer;              -- the queue's capacity
    above boolean;              -- more is in use than that
    shut boolean;               -- a hold stands on the queue
    looked boolean := false;
    head record;
    got runs_noderun;
BEGIN
    LOOP
        SELECT capacity, used > capacity, held INTO whole, above, shut
          FROM workspaces_resourcequeue WHERE id = p_queue;
        IF have > 0 AND (above OR shut) THEN
            -- Capacity was lowered under load, or the queue is held: what ends is given back,
            -- never handed on. The row is locked by us now: a release is seen, or sees this.
            UPDATE workspaces_resourcequeue SET used = used - have WHERE id = p_queue
            RETURNING held INTO shut;
            have := 0;
        END IF;
        IF shut THEN
            RETURN NULL;
        END IF;
        refused := NULL;

        FOR head IN
            SELECT id, demand, queued_at FROM runs_noderun
             WHERE state = 'queued' AND queue_id = p_queue
               AND demand <= whole  -- capacity may have been lowered below it after launch
             ORDER BY queue_id, level DESC, turn, queued_at LIMIT 50
        LOOP
            IF head.demand > have THEN
                IF refused IS NULL OR head.demand < refused THEN
                    IF runyard_ask(p_queue, head.demand - have) THEN
                        have := head.demand;
                    ELSE
                        refused := head.demand;
                    END IF;
                END IF;
                IF head.demand > have THEN
                    -- It does not fit. Long in line, it holds back those behind it, else it
                    -- would starve.
                    EXIT WHEN head.queued_at < clock_timestamp() - interval '60 s'
                        AND EXISTS (SELECT FROM runs_noderun
                                     WHERE id = head.id AND state = 'queued');
                    CONTINUE;
                END IF;
            END IF;
            UPDATE runs_noderun AS node
               SET state = 'running', attempt = attempt + 1, worker = p_worker,
                   claim_request = p_request, lease_until = clock_timestamp() + p_lease,
                   started_at = clock_timestamp(), ended_at = NULL, exit_code = NULL,
                   stop = '', reason = ''
             WHERE id = (SELECT id FROM runs_noderun
                          WHERE id = head.id AND state = 'queued'
                            FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING node.* INTO got;
            IF FOUND THEN
                IF have > got.demand THEN
                    UPDATE workspaces_resourcequeue SET used = used - (have - got.demand)
                     WHERE id = p_queue;
                END IF;
                RETURN got;
            END IF;
        END LOOP;

        IF have = 0 THEN
            RETURN NULL;
        END IF;
        -- Give it back, then look once more: the queue's row is locked by us now, so that
        -- whoever was refused before this moment is seen by this look. Once: what fits may be
        -- locked by one who waits for us (a stop), and then another look finds it no sooner.
        UPDATE workspaces_resourcequeue SET used = used - have WHERE id = p_queue;
        have := 0;
        IF looked THEN
            RETURN NULL;
        END IF;
        looked := true;
    END LOOP;
END $$;


-- Ask a queue for capacity; one that is held gives none. The second try waits for whoever is
-- giving some back at this
-- moment: a condition that is false in the snapshot would not wait.
CREATE FUNCTION runyard_ask(p_queue bigint, p_more integer) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE workspaces_resourcequeue SET used = used + p_more
     WHERE id = p_queue AND used + p_more <= capacity AND NOT held;
    IF FOUND THEN
        RETURN true;
    END IF;
    PERFORM FROM workspaces_resourcequeue WHERE id = p_queue FOR NO KEY UPDATE;
    UPDATE workspaces_resourcequeue SET used = used + p_more
     WHERE id = p_queue AND used + p_more <= capacity AND NOT held;
    RETURN FOUND;
END $$;


-- What a worker holds of a running node: its Claim. Null of a row of nulls.
CREATE FUNCTION runyard_claim_of(p_node runs_noderun) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN p_node.id IS NOT NULL THEN jsonb_build_object(
        'node_run_id', p_node.id, 'run_id', p_node.run_id, 'attempt', p_node.attempt,
        'queue_id', p_node.queue_id, 'key', p_node.key,
        'job_version_id', p_node.job_version_id, 'timeout_seconds', p_node.timeout_seconds,
        'failures', p_node.failures, 'retries', p_node.retries,
        'retry_interval_seconds', p_node.retry_interval_seconds,
        'retry_backoff', p_node.retry_backoff,
        'retry_max_interval_seconds', p_node.retry_max_interval_seconds,
        'final_exit_codes', p_node.final_exit_codes) END;
END $$;


-- Write the start of the attempt that `runyard_take` just made. The run's row is the
-- caller's to write, last.
CREATE FUNCTION runyard_start(p_node runs_noderun) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runs_attempt (node_run_id, number, state, worker, started_at, reason,
                              error_line, log_bytes, log_lines, log_tail, application_id, ui_url)
    VALUES (p_node.id, p_node.attempt, 'running', p_node.worker, p_node.started_at, '',
            '', 0, 0, '', '', '');
    INSERT INTO runs_runevent (run_id, node_run_id, attempt, old, new, note, at)
    VALUES (p_node.run_id, p_node.id, p_node.attempt, 'queued', 'running', '', clock_timestamp());
END $$;


-- A run's row as one of its nodes starts.
CREATE FUNCTION runyard_run_started(p_run bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE runs_run
       SET revision = revision + 1, state = 'running',
           started_at = coalesce(started_at, clock_timestamp())
     WHERE id = p_run;
END $$;


-- Take the next node of a queue. `p_again`: the reply to this request may have been lost;
-- then the same claim is given again. Returns the Claim, or null.
CREATE FUNCTION runyard_claim(
    p_queue bigint, p_worker text, p_request uuid, p_again boolean, p_lease interval
) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    node runs_noderun;
BEGIN
    IF p_again THEN
        UPDATE runs_noderun AS mine SET lease_until = clock_timestamp() + p_lease
         WHERE worker = p_worker AND state = 'running' AND claim_request = p_request
        RETURNING mine.* INTO node;
        IF FOUND THEN
            RETURN runyard_claim_of(node);
        END IF;
    END IF;
    node := runyard_take(p_queue, 0, p_worker, p_request, p_lease);
    IF node.id IS NOT NULL THEN
        PERFORM runyard_start(node);
        PERFORM runyard_run_started(node.run_id);
    END IF;
    RETURN runyard_claim_of(node);
END $$;


-- Admit a run's held nodes (pending, lacking nothing) to their queues, as far as its lane, a
-- pause, a hold and the run's limit allow. Takes the run's row lock before it looks. Returns the
-- ids that were queued.
CREATE FUNCTION runyard_admit(p_run bigint) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    run record;
    ready bigint[];
BEGIN
    SELECT hold, held, waits, parallelism, active INTO run FROM runs_run
     WHERE id = p_run FOR NO KEY UPDATE;
    IF run.hold <> '' OR run.held OR run.waits THEN
        RETURN '{}';
    END IF;
    SELECT array_agg(id) INTO ready FROM (
        SELECT id FROM runs_noderun
         WHERE run_id = p_run AND state = 'pending' AND need = 0
         ORDER BY id
         LIMIT CASE WHEN run.parallelism IS NULL THEN NULL
                    ELSE greatest(run.parallelism - run.active, 0) END
           FOR NO KEY UPDATE SKIP LOCKED) h;
    IF ready IS NULL THEN
        RETURN '{}';
    END IF;
    ready := runyard_enqueue(ready);
    UPDATE runs_run SET active = active + cardinality(ready), revision = revision + 1
     WHERE id = p_run;
    RETURN ready;
END $$;


-- Let as many runs start as a lane has room for, the longest in line first. One that is paused,
-- held, or waits for a run of its cycle keeps its place in line and lets others pass. Exact under
-- any race: whoever lets runs start holds the lane's row, and an end that has not committed yet
-- still counts as under way. Returns bells as `runyard_finish` does.
CREATE FUNCTION runyard_fill(p_lane bigint) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    most integer;
    room bigint;
    admitted bigint[];
    run bigint;
    queued bigint[] := '{}';
BEGIN
    SELECT "limit" INTO most FROM runs_lane WHERE id = p_lane FOR NO KEY UPDATE;
    IF most IS NOT NULL THEN
        SELECT most - count(*) INTO room FROM runs_run
         WHERE lane_id = p_lane AND state IN ('pending', 'running') AND NOT waits;
        IF room <= 0 THEN
            RETURN '[]';
        END IF;
    END IF;
    WITH next AS (
        SELECT id FROM runs_run
         WHERE lane_id = p_lane AND waits AND waits_for_id IS NULL AND hold = '' AND NOT held
         ORDER BY id LIMIT room FOR NO KEY UPDATE
    ), moved AS (
        UPDATE runs_run SET waits = false, revision = revision + 1
          FROM next WHERE runs_run.id = next.id
        RETURNING runs_run.id
    ), told AS (
        INSERT INTO runs_runevent (run_id, old, new, note, at)
        SELECT id, '', '', 'admitted: its lane has room', clock_timestamp() FROM moved
    )
    SELECT array_agg(id ORDER BY id) INTO admitted FROM moved;
    IF admitted IS NULL THEN
        RETURN '[]';
    END IF;
    FOREACH run IN ARRAY admitted LOOP
        queued := queued || runyard_admit(run);
    END LOOP;
    RETURN (SELECT coalesce(jsonb_agg(jsonb_build_array(q.queue_id, q.n)), '[]')
              FROM (SELECT queue_id, count(*) AS n FROM runs_noderun
                     WHERE id = ANY (queued) GROUP BY queue_id) q);
END $$;


-- Let the runs go on that wait for this one since it runs the same cycle of their workflow: into
-- their lane's line, or, without a lane, to their start. Does nothing while an earlier run of the
-- cycle is not over; then they wait for the newest of these. Exact under any race: a run's id is
-- greater than those of the runs that it waits for, and none of a cycle is opened again while
-- another is not over. Returns {bells, lanes}: bells as `runyard_finish` does, and the lanes
-- that have one more to look at.
CREATE FUNCTION runyard_follow(p_run bigint) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    one record;
    before bigint;
    lanes bigint[] := '{}';
    queued bigint[] := '{}';
BEGIN
    FOR one IN SELECT id, workflow_id, cycle, lane_id FROM runs_run
                WHERE waits_for_id = p_run ORDER BY id FOR NO KEY UPDATE
    LOOP
        SELECT max(id) INTO before FROM runs_run
         WHERE workflow_id = one.workflow_id AND cycle = one.cycle
           AND state IN ('pending', 'running') AND trigger <> 'debug' AND id < one.id;
        CONTINUE WHEN before = p_run;
        UPDATE runs_run
           SET waits_for_id = before, waits = before IS NOT NULL OR lane_id IS NOT NULL,
               revision = revision + 1
         WHERE id = one.id;
        CONTINUE WHEN before IS NOT NULL;
        INSERT INTO runs_runevent (run_id, old, new, note, at)
        VALUES (one.id, '', '', format('run %s, of the same cycle, is over', p_run),
                clock_timestamp());
        IF one.lane_id IS NULL THEN
            queued := queued || runyard_admit(one.id);
        ELSE
            lanes := lanes || one.lane_id;
        END IF;
    END LOOP;
    RETURN jsonb_build_object(
        'lanes', to_jsonb(lanes),
        'bells', (SELECT coalesce(jsonb_agg(jsonb_build_array(q.queue_id, q.n)), '[]')
                    FROM (SELECT queue_id, count(*) AS n FROM runs_noderun
                           WHERE id = ANY (queued) GROUP BY queue_id) q));
END $$;


-- End an attempt and take the next node of its queue, if `p_take`.
--
-- Idempotent by (node, attempt, request): repeated after a lost reply it gives the same
-- answer and the same next claim. Returns {accepted, state, next, bells, run_ended, awaited};
-- accepted = false means: fenced, nothing was written. `awaited`: the run ended, and its lane,
-- an owner or a run of the same cycle waits for that. `bells` says for each queue how many more
-- workers should look: [[queue, n], …].
CREATE FUNCTION runyard_finish(
    p_node bigint, p_attempt integer, p_request uuid, p_worker text, p_lease interval,
    p_take boolean, p_state text, p_exit_code integer, p_reason text, p_retry_in interval,
    p_log jsonb
) RETURNS jsonb
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    me record;
    run record;
    past record;
    ready bigint[] := '{}';
    queued bigint[] := '{}';
    taken runs_noderun;
    direct boolean := false;    -- the successor went straight to running
    ended boolean;
    own_bells integer;
    bells jsonb := '[]';
BEGIN
    -- 1. The fence. A stop that came while it ran takes its retry away.
    UPDATE runs_noderun
       SET state = CASE WHEN p_state = 'retrying' AND stop <> '' THEN stop ELSE p_state END,
           lease_until = NULL,
           retry_at = CASE WHEN p_state = 'retrying' AND stop = ''
                           THEN clock_timestamp() + p_retry_in END,
           failures = failures + (p_state IN ('failed', 'retrying'))::integer,
           ended_at = clock_timestamp(), exit_code = p_exit_code, reason = p_reason, stop = ''
     WHERE id = p_node AND attempt = p_attempt AND state = 'running'
    RETURNING run_id, queue_id, demand, down, state INTO me;
    IF NOT FOUND THEN
        SELECT * INTO past FROM runs_attempt WHERE node_run_id = p_node AND number = p_attempt;
        IF NOT FOUND OR past.finish_request IS DISTINCT FROM p_request THEN
            RETURN jsonb_build_object('accepted', false);
        END IF;
        SELECT n.state, n.queue_id, r.ended_at IS NOT NULL AS run_ended,
               r.ended_at IS NOT NULL AND (r.lane_id IS NOT NULL OR r.on_end <> '{}' OR EXISTS
                   (SELECT FROM runs_run w WHERE w.waits_for_id = r.id)) AS awaited
          INTO me
          FROM runs_noderun n JOIN runs_run r ON r.id = n.run_id WHERE n.id = p_node;
        UPDATE runs_noderun AS next SET lease_until = clock_timestamp() + p_lease
         WHERE id = past.next_node_run AND attempt = past.next_attempt
           AND state = 'running' AND worker = p_worker
        RETURNING next.* INTO taken;
        -- The first answer's bells may not have rung; one more is harmless, and each worker
        -- looks by itself every 2 s.
        RETURN jsonb_build_object(
            'accepted', true, 'state', me.state, 'run_ended', me.run_ended,
            'awaited', me.awaited, 'next', runyard_claim_of(taken),
            'bells', jsonb_build_array(jsonb_build_array(me.queue_id, 1)));
    END IF;

    -- 2. Sees every pause and stop that came before: they lock the run's unfinished nodes
    -- first, so that this finish is wholly before or wholly after them.
    SELECT hold, held, parallelism, strategy, on_failure,
           lane_id IS NOT NULL OR on_end <> '{}' AS awaited INTO run
      FROM runs_run WHERE id = me.run_id;
    -- The rest of a run with the strategy *end* is about to be cancelled; its next node may be
    -- the head of the line.
    IF me.state = 'failed' AND run.strategy = 'end' THEN
        p_take := false;
    END IF;

    -- 3a. The hop of a chain: the only successor lacks nothing else, and nobody stands in line.
    -- It takes over what this node held, and goes to running by one update, where counting
    -- down, queueing and taking are three, each with all its indexes.
    IF p_take AND me.state = 'succeeded' AND cardinality(me.down) = 1
       AND run.hold = '' AND NOT run.held AND run.parallelism IS NULL THEN
        UPDATE runs_noderun AS node
           SET need = 0, turn = 0, queued_at = clock_timestamp(),
               state = 'running', attempt = attempt + 1, worker = p_worker,
               claim_request = p_request, lease_until = clock_timestamp() + p_lease,
               started_at = clock_timestamp(), ended_at = NULL, exit_code = NULL,
               stop = '', reason = ''
         WHERE id = me.down[1] AND state = 'pending' AND need = 1
           AND queue_id = me.queue_id AND demand = me.demand
           AND NOT EXISTS (SELECT FROM runs_noderun
                            WHERE state = 'queued' AND queue_id = me.queue_id)
           AND EXISTS (SELECT FROM workspaces_resourcequeue
                        WHERE id = me.queue_id AND used <= capacity AND NOT held)
        RETURNING node.* INTO taken;
        IF FOUND THEN
            direct := true;
            ready := me.down;
            queued := me.down;
        END IF;
    END IF;

    -- 3. Count down what waits for it; never look at the rest of the run. In a run that is
    -- being ended nothing becomes ready any more: a rerun counts anew.
    IF NOT direct AND me.state = 'succeeded' AND me.down <> '{}' AND run.hold IN ('', 'paused') THEN
        WITH locked AS (
            SELECT id FROM runs_noderun WHERE id = ANY (me.down) ORDER BY id FOR NO KEY UPDATE
        ), counted AS (
            UPDATE runs_noderun AS node SET need = need - 1
              FROM locked
             WHERE node.id = locked.id AND node.state = 'pending' AND node.need > 0
            RETURNING node.id, node.need
        )
        SELECT coalesce(array_agg(id ORDER BY id), '{}') INTO ready FROM counted WHERE need = 0;
    END IF;
    IF direct OR run.hold <> '' OR run.held THEN
        NULL;  -- what is ready runs already, or stays pending
    ELSIF run.parallelism IS NULL THEN
        IF ready <> '{}' THEN
            queued := runyard_enqueue(ready);
        END IF;
    ELSE
        -- The slot in the run is handed on like capacity: to the first held node.
        queued := runyard_enqueue(ARRAY(
            SELECT id FROM runs_noderun
             WHERE run_id = me.run_id AND state = 'pending' AND need = 0
             ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED));
    END IF;

    -- 4. Hand the capacity on, or give it back.
    IF direct THEN
        NULL;
    ELSIF p_take THEN
        taken := runyard_take(me.queue_id, me.demand, p_worker, p_request, p_lease);
    ELSE
        UPDATE workspaces_resourcequeue SET used = used - me.demand WHERE id = me.queue_id;
    END IF;

    -- 5. History.
    IF direct THEN
        INSERT INTO runs_runevent (run_id, node_run_id, attempt, old, new, note, at)
        VALUES (taken.run_id, taken.id, taken.attempt - 1, 'pending', 'queued', '',
                taken.queued_at);
    END IF;
    IF taken.id IS NOT NULL THEN
        PERFORM runyard_start(taken);
    END IF;
    UPDATE runs_attempt
       SET state = CASE WHEN p_state = 'retrying' THEN 'failed' ELSE me.state END,
           ended_at = clock_timestamp(), exit_code = p_exit_code, reason = p_reason,
           error_line = coalesce(p_log->>'error_line', ''),
           log_bytes = coalesce((p_log->>'bytes')::bigint, 0),
           log_lines = coalesce((p_log->>'lines')::bigint, 0),
           log_tail = coalesce(p_log->>'tail', ''),
           finish_request = p_request, next_node_run = taken.id, next_attempt = taken.attempt
     WHERE node_run_id = p_node AND number = p_attempt;
    INSERT INTO runs_runevent (run_id, node_run_id, attempt, old, new, note, at)
    VALUES (me.run_id, p_node, p_attempt, 'running', me.state, p_reason, clock_timestamp());
    IF me.state = 'failed' AND run.on_failure <> '{}' THEN
        INSERT INTO runs_runend (run_id, hook, tries, due_at, why)
        SELECT me.run_id, hook, 0, clock_timestamp(), '' FROM unnest(run.on_failure) AS hook;
    END IF;

    -- 6. The runs' rows last, by id.
    IF taken.run_id < me.run_id THEN
        PERFORM runyard_run_started(taken.run_id);
    END IF;
    UPDATE runs_run
       SET active = active - 1 + cardinality(queued),
           open = open - (me.state <> 'retrying')::integer + cardinality(ready),
           succeeded = succeeded + (me.state = 'succeeded')::integer,
           failed = failed + (me.state = 'failed')::integer,
           stopped = stopped + (me.state = 'stopped')::integer,
           cancelled = cancelled + (me.state = 'cancelled')::integer,
           revision = revision + 1
     WHERE id = me.run_id
    RETURNING open = 0 INTO ended;
    ended := ended AND runyard_close(me.run_id);
    IF run.parallelism IS NOT NULL AND NOT ended THEN
        queued := queued || runyard_admit(me.run_id);  -- room that a raised limit left
    END IF;
    IF taken.run_id > me.run_id THEN
        PERFORM runyard_run_started(taken.run_id);
    END IF;

    -- 7. Who else should look. A useless bell costs more than any rule here: none for the
    -- own queue where nothing was found there. Where another node was taken than one of those
    -- just queued, the line is as long as it was, and was rung for then.
    own_bells := 0;
    IF NOT direct AND queued <> '{}' THEN
        SELECT coalesce(jsonb_agg(jsonb_build_array(q.queue_id, q.n))
                            FILTER (WHERE q.queue_id <> me.queue_id), '[]'),
               coalesce(sum(q.n) FILTER (WHERE q.queue_id = me.queue_id), 0)
                   - (taken.id IS NOT NULL)::integer
          INTO bells, own_bells
          FROM (SELECT queue_id, count(*) AS n FROM runs_noderun
                 WHERE id = ANY (queued) AND (state = 'queued' OR id = taken.id)
                 GROUP BY queue_id) q;
    END IF;
    IF NOT p_take OR taken.demand < me.demand THEN
        own_bells := greatest(own_bells, 1);
    ELSIF taken.id IS NULL THEN
        own_bells := 0;
    END IF;
    IF own_bells > 0 THEN
        bells := bells || jsonb_build_array(jsonb_build_array(me.queue_id, own_bells));
    END IF;
    RETURN jsonb_build_object(
        'accepted', true, 'state', me.state, 'run_ended', ended,
        'awaited', ended AND (run.awaited OR EXISTS (
            SELECT FROM runs_run w WHERE w.waits_for_id = me.run_id)),
        'bells', bells, 'next', runyard_claim_of(taken));
END $$;


-- End a run in which nothing can happen any more. The caller has just written its row.
-- Stopped only if a person stopped it or one of its nodes; else failed if a node failed or
-- was cut off; else succeeded.
CREATE FUNCTION runyard_close(p_run bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    was text;       -- a run that never started ends from pending
    how text;
    hooks varchar[];
BEGIN
    UPDATE runs_run AS run
       SET state = CASE WHEN hold = 'stopped' OR stopped > 0 THEN 'stopped'
                        WHEN succeeded = total THEN 'succeeded'
                        ELSE 'failed' END,
           ended_at = clock_timestamp(), waits = false, waits_for_id = NULL,
           revision = revision + 1
      FROM (SELECT state FROM runs_run WHERE id = p_run) AS before
     WHERE run.id = p_run AND run.open = 0 AND run.ended_at IS NULL
    RETURNING before.state, run.state,
              -- A failure of which no failed node has told.
              run.on_end || CASE WHEN run.state = 'failed' AND run.failed = 0
                                 THEN run.on_failure ELSE '{}' END
         INTO was, how, hooks;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF hooks <> '{}' THEN
        INSERT INTO runs_runend (run_id, hook, tries, due_at, why)
        SELECT p_run, hook, 0, clock_timestamp(), '' FROM unnest(hooks) AS hook;
    END IF;
    INSERT INTO runs_runevent (run_id, old, new, note, at)
    VALUES (p_run, was, how, '', clock_timestamp());
    RETURN true;
END $$;
