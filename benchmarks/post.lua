-- 1 KB, to be echoed.
dofile("done.lua")
wrk.method = "POST"
wrk.body = string.rep("x", 1024)
