"""What all of /api/v1/ has in common: who asks, whether they may, how it answers.

A view is an `Endpoint`; each of its methods is an `operation`, one declaration of the right it
needs, what it takes and what it gives. The same declaration judges the request, reads its body
and its query, and makes the OpenAPI description, so that the description cannot say another
thing than the code does. What has no declaration is refused.
"""
