"""The Prefect adapter: the server, the dispatcher, the one flow that shows a run. Only this room imports prefect."""
