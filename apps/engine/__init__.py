"""The rules, pure: no Django, no Celery, no clock, no I/O; everything takes `now`."""
