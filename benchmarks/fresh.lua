-- Every request has values of its own, but for Host and Connection. They are prepared, since wrk's core is the scarce one;
-- a server would have to remember thousands of requests to see one again.
dofile("done.lua")

local COUNT = 5003
local requests = {}
local turn = 0

function init(args)
   local original = {}
   for name, value in pairs(wrk.headers) do original[name] = value end
   for number = 1, COUNT do
      for name, value in pairs(original) do
         if name ~= "Host" and name ~= "Connection" then
            wrk.headers[name] = value .. ";n=" .. (100000 + number)
         end
      end
      requests[number] = wrk.format()
   end
end

function request()
   turn = turn % COUNT + 1
   return requests[turn]
end
