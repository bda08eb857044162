"""ansible-runner behind `core.action.Executor`. Imports core, ansible_runner and yaml; never ansible itself."""
