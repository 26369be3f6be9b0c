-- For `make scripts`, which checks the bundles.
std = "lua51"
read_globals = { "redis", "cjson", "KEYS" }
-- lua/lib/call.lua takes the version of the protocol off the second argument.
globals = { "ARGV" }
max_line_length = false
-- Not every script uses every function of the parts that it includes, and a script may name its own variables as they do.
ignore = { "211", "431" }
