# The commands that a person types. Each is one chore of xtask; `cargo xtask help` lists them all.

.PHONY: help demo test lint docs bench wheel driver captures clean

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1 — /p' Makefile

demo: ## install into .venv and replay a recorded capture under the example policy
	cargo xtask demo

test: ## run every test tier that this machine can run (TIERS="unit no-std" chooses)
	cargo xtask test $(TIERS)

lint: ## format, lints, types, stubs, documentation, dependencies
	cargo xtask lint

docs: ## build the documentation site into target/site
	cargo xtask docs

bench: ## measure the engine, the driver, rule policies, the replay path and the paths from Python
	cargo xtask bench

wheel: ## build a release wheel into target/wheels
	cargo xtask wheel

driver: ## build the Windows driver, target/driver/PortmasterKext64.sys, and check it
	cargo xtask driver

captures: ## record the captures anew (Linux, root)
	cargo xtask captures

clean: ## remove everything that was built, .venv included
	cargo xtask clean
