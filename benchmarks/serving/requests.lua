-- Sends prepared requests in turn and prints what was measured as one line of JSON.
-- Arguments: a file of whole HTTP requests one after another, and a file of their lengths.

local prepared = {}
local next_index = 0

function init(args)
  local requests = assert(io.open(args[1], "rb"))
  for length in io.lines(args[2]) do
    prepared[#prepared + 1] = requests:read(tonumber(length))
  end
  requests:close()
end

function request()
  next_index = next_index % #prepared + 1
  return prepared[next_index]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nMEASURED {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"refused": %d, "broken": %d, "timeouts": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
