"""REST: workflows, their drafts, versions and schedules."""
