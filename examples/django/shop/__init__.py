"""A Django site of one app: a view stores an order and answers, a task packs it.

`python manage.py migrate --run-syncdb`, then `uvicorn shop.asgi:application`.
"""
