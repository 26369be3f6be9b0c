-- For `make scripts`, which checks each script with the shared part in its place.
std = "lua51"
read_globals = { "redis", "cjson", "KEYS" }
-- The shared part takes the version of the protocol off the second argument.
globals = { "ARGV" }
max_line_length = false
-- Not every script uses every function of the shared part, and a script may name its own variables as that does.
ignore = { "211", "431" }
