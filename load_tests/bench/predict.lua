-- wrk's side of a run: POST /predict with the bodies of a file, one a line, in turn; the counts as one JSON line.
-- wrk ... -s predict.lua URL -- FILE

wrk.method = "POST"
wrk.path = "/predict"
wrk.headers["Content-Type"] = "application/json"

local thread
local requests, turn = {}, 0
answers_200, answers_other = 0, 0

function setup(it)
  thread = it -- there is one: wrk -t1
end

function init(args)
  for body in io.lines(args[1]) do
    wrk.body = body
    requests[#requests + 1] = wrk.format()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status)
  if status == 200 then answers_200 = answers_200 + 1 else answers_other = answers_other + 1 end
end

function done(summary, latency)
  local errors = summary.errors
  local format = '{"seconds": %.6f, "answers_200": %d, "answers_other": %d, "broken": %d, "timed_out": %d, '
    .. '"p50_ms": %.3f, "p90_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f, "max_ms": %.3f}\n'
  io.write(string.format(format, summary.duration / 1e6, thread:get("answers_200"), thread:get("answers_other"),
    errors.connect + errors.read + errors.write, errors.timeout, latency:percentile(50) / 1e3,
    latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
