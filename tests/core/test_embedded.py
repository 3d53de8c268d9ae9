import pytest
from django.db import connection


@pytest.mark.django_db
def test_tests_run_on_the_embedded_postgresql(home):
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        assert cursor.fetchone() == (str(home.database),)
