"""Every address below /api/. What no line here takes is answered as a problem, not as a page."""

from __future__ import annotations

from django.urls import include, path, re_path

from apps.core.api import description, problems
from apps.nodes import api as nodes
from apps.notifications.api import channels, deliveries, heartbeats, incidents, rules, silences
from apps.notifications.api import workflows as workflow_notifications
from apps.runs.api import backfills, logs, node_runs, outputs, runs
from apps.workflows.api import launching, schedules, workflows
from apps.workspaces import api as workspaces

_job = "jobs/<int:job>"
_workflow = "workflows/<int:workflow>"
_run = "runs/<int:run>"
_node = f"{_run}/nodes/<str:node>"
_backfill = "backfills/<int:backfill>"
_attempt = f"{_node}/attempts/<int:attempt>"

in_workspace = [
    path("queues", workspaces.QueuesEndpoint.as_view()),
    path("queues/<str:queue>", workspaces.QueueEndpoint.as_view()),
    path("variables", workspaces.VariablesEndpoint.as_view()),
    path("variables/<str:variable>", workspaces.VariableEndpoint.as_view()),
    path("secrets", workspaces.SecretsEndpoint.as_view()),
    path("secrets/<str:secret>", workspaces.SecretEndpoint.as_view()),
    path("holds", workspaces.HoldsEndpoint.as_view()),
    path("holds/<int:hold>", workspaces.HoldEndpoint.as_view()),
    path("holds/<int:hold>/release", workspaces.HoldReleaseEndpoint.as_view()),
    path("jobs", nodes.JobsEndpoint.as_view()),
    path(f"{_job}", nodes.JobEndpoint.as_view()),
    path(f"{_job}/draft", nodes.JobDraftEndpoint.as_view()),
    path(f"{_job}/publish", nodes.JobPublishEndpoint.as_view()),
    path(f"{_job}/versions", nodes.JobVersionsEndpoint.as_view()),
    path(f"{_job}/versions/<int:number>", nodes.JobVersionEndpoint.as_view()),
    path(f"{_job}/run", nodes.JobRunEndpoint.as_view()),
    path("files", nodes.FilesEndpoint.as_view()),
    path("files/<path:path>", nodes.FileEndpoint.as_view()),
    path("workflows", workflows.WorkflowsEndpoint.as_view()),
    path(f"{_workflow}", workflows.WorkflowEndpoint.as_view()),
    path(f"{_workflow}/draft", workflows.WorkflowDraftEndpoint.as_view()),
    path(
        f"{_workflow}/notifications", workflow_notifications.WorkflowNotificationsEndpoint.as_view()
    ),
    path(
        f"{_workflow}/node-subscriptions",
        workflow_notifications.NodeSubscriptionsEndpoint.as_view(),
    ),
    path(f"{_workflow}/silence", silences.WorkflowSilenceEndpoint.as_view()),
    path(f"{_workflow}/watch", workflow_notifications.WatchEndpoint.as_view()),
    path(f"{_workflow}/tags", workflows.WorkflowTagsEndpoint.as_view()),
    path(f"{_workflow}/ownership", workflows.WorkflowOwnershipEndpoint.as_view()),
    path(f"{_workflow}/publish", workflows.WorkflowPublishEndpoint.as_view()),
    path(f"{_workflow}/versions", workflows.WorkflowVersionsEndpoint.as_view()),
    path(f"{_workflow}/versions/<int:number>", workflows.WorkflowVersionEndpoint.as_view()),
    path("schedule-preview", schedules.SchedulePreviewEndpoint.as_view()),
    path(f"{_workflow}/schedule", schedules.WorkflowScheduleEndpoint.as_view()),
    path(f"{_workflow}/schedule/points", schedules.SchedulePointsEndpoint.as_view()),
    path(f"{_workflow}/run", launching.WorkflowRunEndpoint.as_view()),
    path(f"{_workflow}/dry-run", launching.WorkflowDryRunEndpoint.as_view()),
    path(f"{_workflow}/backfill", backfills.BackfillLaunchEndpoint.as_view()),
    path(f"{_workflow}/backfill/preview", backfills.BackfillPreviewEndpoint.as_view()),
    path("backfills", backfills.BackfillsEndpoint.as_view()),
    path(f"{_backfill}", backfills.BackfillEndpoint.as_view()),
    path(f"{_backfill}/cycles", backfills.BackfillCyclesEndpoint.as_view()),
    path(f"{_backfill}/events", backfills.BackfillEventsEndpoint.as_view()),
    path(f"{_backfill}/pause", backfills.BackfillPauseEndpoint.as_view()),
    path(f"{_backfill}/resume", backfills.BackfillResumeEndpoint.as_view()),
    path(f"{_backfill}/cancel", backfills.BackfillCancelEndpoint.as_view()),
    path("runs", runs.RunsEndpoint.as_view()),
    path("notification-rules", rules.RulesEndpoint.as_view()),
    path("notification-rules/<int:rule>", rules.RuleEndpoint.as_view()),
    path(f"{_run}", runs.RunEndpoint.as_view()),
    path(f"{_run}/events", runs.RunEventsEndpoint.as_view()),
    path(f"{_run}/stop", runs.RunStopEndpoint.as_view()),
    path(f"{_run}/pause", runs.RunPauseEndpoint.as_view()),
    path(f"{_run}/resume", runs.RunResumeEndpoint.as_view()),
    path(f"{_run}/rerun", runs.RunRerunEndpoint.as_view()),
    path(f"{_run}/nodes", node_runs.NodeRunsEndpoint.as_view()),
    path(f"{_node}", node_runs.NodeRunEndpoint.as_view()),
    path(f"{_node}/stop", node_runs.NodeRunStopEndpoint.as_view()),
    path(f"{_node}/success", node_runs.NodeRunSuccessEndpoint.as_view()),
    path(f"{_node}/attempts", node_runs.AttemptsEndpoint.as_view()),
    path(f"{_attempt}/variables", node_runs.VariablesOfAttemptEndpoint.as_view()),
    path(f"{_attempt}", node_runs.AttemptEndpoint.as_view()),
    path(f"{_attempt}/log", logs.LogEndpoint.as_view()),
    path(f"{_attempt}/log/lines", logs.LogLinesEndpoint.as_view()),
    path(f"{_attempt}/log/search", logs.LogSearchEndpoint.as_view()),
    path(f"{_run}/outputs", outputs.OutputsEndpoint.as_view()),
    path(f"{_run}/outputs/<int:output>", outputs.OutputEndpoint.as_view()),
    path("heartbeat", heartbeats.HeartbeatEndpoint.as_view()),
    path("channels", channels.ChannelsEndpoint.as_view()),
    path("channels/<str:channel>", channels.ChannelEndpoint.as_view()),
    path("channels/<str:channel>/test", channels.ChannelTestEndpoint.as_view()),
    path("deliveries", deliveries.DeliveriesEndpoint.as_view()),
    path("deliveries/<int:delivery>", deliveries.DeliveryEndpoint.as_view()),
    path("incidents", incidents.IncidentsEndpoint.as_view()),
    path("incidents/<int:incident>", incidents.IncidentEndpoint.as_view()),
    path("incidents/<int:incident>/acknowledge", incidents.IncidentAcknowledgeEndpoint.as_view()),
]
v1 = [
    path("schema/", description.schema, name="api-schema"),
    path("docs/", description.docs, name="api-docs"),
    path("token", workspaces.TokenEndpoint.as_view()),
    path("workspaces", workspaces.WorkspacesEndpoint.as_view()),
    path("workspaces/<str:workspace>", workspaces.WorkspaceEndpoint.as_view()),
    path("workspaces/<str:workspace>/", include(in_workspace)),
]
urlpatterns = [
    path("v1/", include(v1)),
    re_path("", problems.not_found),
]
