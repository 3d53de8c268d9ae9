-- 1,000,000 runs that are over, with three nodes each. %(…)s: of the bench.
SET session_replication_role = replica;  -- no check of foreign keys, row by row

INSERT INTO runs_run (
    workspace_id, workflow_id, version_id, name, flow, cycle, trigger, state, hold, strategy,
    parameters, remarks, total, active, open, succeeded, failed, stopped, cancelled, revision,
    created_at, started_at, ended_at)
SELECT w.workspace_id, w.id, w.published_id, w.name, w.id, t, 'api', 'succeeded', '', 'continue',
       '{}', '', 3, 0, 0, 3, 0, 0, 0, 11, t, t, t + interval '1 s'
  FROM workflows_workflow w, generate_series(1, %(runs)s) n,
       LATERAL (SELECT now() - interval '1 s' * n AS t) at
 WHERE w.id = %(workflow)s;

INSERT INTO runs_noderun (
    run_id, key, job_version_id, queue_id, flow, demand, priority, level, turn, state, forced,
    need, down, stop, attempt, failures, losses, retries, retry_interval_seconds, worker,
    queued_at, started_at, ended_at, exit_code, reason)
SELECT r.id, k.key, n.job_version_id, n.queue_id, r.flow, n.demand, 2, 2, 0, 'succeeded', false,
       0, '{}', '', 1, 0, 0, 0, 60, 'worker@bench', r.created_at, r.started_at, r.ended_at, 0, ''
  FROM runs_run r, (VALUES ('n000'), ('n001'), ('n002')) k (key),
       (SELECT job_version_id, queue_id, demand FROM runs_noderun LIMIT 1) n
 WHERE r.workflow_id = %(workflow)s AND r.state = 'succeeded'
   AND NOT EXISTS (SELECT FROM runs_noderun o WHERE o.run_id = r.id);

SET session_replication_role = origin;
