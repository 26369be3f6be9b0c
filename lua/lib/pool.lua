-- Pool: the resources of a pool, and which of them a request gets.

---- include lib/entry.lua

-- Made when a script first needs them: functions cost time to make, in each call of a script, and most calls are for locks.
local made
local function pool()
  if made then return made end

  -- The number in the name of a generated resource, in service or not.
  local function number_of(object, name)
    if not object.prefix or string.sub(name, 1, #object.prefix) ~= object.prefix then return nil end
    local digits = string.sub(name, #object.prefix + 1)
    if #digits > 15 or not string.match(digits, '^%d+$') then return nil end
    local number = tonumber(digits)
    return int(number) == digits and number or nil
  end

  local function index_of(object, name)
    local number = number_of(object, name)
    return number and number < object.count and number or nil
  end

  -- In a generated pool, a resource below `fresh` is free if it stands in `free`, and any other if it is not marked "x" in
  -- `resources`: a holder that was readmitted after a loss may have one of them, or one that has gone out of service.
  local function marks(object) return object.prefix and call('HLEN', object.resources) - object.beyond or 0 end

  local function fresh_left(object, marked)
    return object.prefix and math.max(0, object.count - object.fresh - marked) or 0
  end

  -- The arguments of one command: Lua's stack has room for some thousands.
  local CHUNK = 200

  local function in_chunks(names, run)
    for from = 1, #names, CHUNK do
      run({ unpack(names, from, math.min(from + CHUNK - 1, #names)) })
    end
  end

  local function mark(object, name, number)
    if call('HSET', object.resources, name, 'x') == 1 and number >= object.count then
      object.beyond, object.changed = object.beyond + 1, true
    end
    if object.records then object.records[name] = 'x' end
  end

  local function unmark(object, name, number)
    local marked = call('HDEL', object.resources, name) == 1
    if object.records then object.records[name] = nil end
    if marked and number >= object.count then
      object.beyond, object.changed = object.beyond - 1, true
    end
    return marked
  end

  -- Adds up to `count` resources that were never handed out to `names`, of which so many are marked. Returns false if the
  -- budget has ended it.
  local function take_fresh(object, count, names, marked)
    local wanted = #names + count
    while object.prefix and object.fresh < object.count and #names < wanted do
      if budget <= 0 then
        object.more = true
        return false
      end
      local number = object.fresh
      local name = object.prefix .. int(number)
      -- Stored also if the request is not granted: the marks of what was skipped are gone.
      object.fresh, object.changed = number + 1, true
      if marked > 0 and unmark(object, name, number) then
        marked, budget = marked - 1, budget - 1 / 8
      else
        names[#names + 1] = name
      end
    end
    return true
  end

  -- Returns whether resources that have gone out of service are still among those below `fresh`. Until they are not, nothing
  -- is granted.
  local function lowering(object) return object.prefix and object.fresh > object.count end

  -- Takes some of them from there. A resource that is not free is held.
  local function lower(object)
    while lowering(object) and budget > 0 do
      object.fresh, object.changed = object.fresh - 1, true
      local name = object.prefix .. int(object.fresh)
      if call('ZREM', object.free, name) == 0 then mark(object, name, object.fresh) end
      budget = budget - 1 / 4
    end
    if lowering(object) then object.more = true end
  end

  -- Marks anew what holders have of a generated pool: after a change of its names, and where a mark may be missing.
  local function mark_held(object, held)
    call('UNLINK', object.resources)
    object.unmarked, object.beyond = false, 0
    for name in pairs(held) do
      local number = number_of(object, name)
      if number and number >= object.fresh then mark(object, name, number) end
    end
  end

  -- Free resources that one call looks at for the request that it is about, some half a millisecond, and for all that
  -- wait. Those have seen before what is free for longer: they look at the newest first, and at some others again.
  local SCANNED, FOR_WAITERS, NEWEST, SEEN_AGAIN = 500, 1000, 32, 100

  -- Takes up to `count` free resources in the order of the pool.
  local function take(object, count)
    local names = {}
    local function take_used(command, most)
      local got = call(command, object.free, int(most))
      for i = 1, #got, 2 do
        names[#names + 1] = got[i]
      end
    end
    if object.order == 'MostRecentlyUsed' then
      take_used('ZPOPMAX', count)
      if #names < count then take_fresh(object, count - #names, names, marks(object)) end
      return names
    end
    local marked = marks(object)
    local fresh = fresh_left(object, marked)
    if object.order == 'Random' then
      local used, from_used, from_fresh = call('ZCARD', object.free), 0, 0
      math.randomseed(now_us % 2147483648) -- the server seeds every script alike
      for _ = 1, math.min(count, used + fresh) do
        if math.random(used + fresh - from_used - from_fresh) > used - from_used then
          from_fresh = from_fresh + 1
        else
          from_used = from_used + 1
        end
      end
      names = from_used > 0 and call('ZRANDMEMBER', object.free, int(from_used)) or names
      in_chunks(names, function(some) call('ZREM', object.free, unpack(some)) end)
      take_fresh(object, from_fresh, names, marked)
    else
      -- Least recently used: what was never used comes first.
      local whole = take_fresh(object, math.min(count, fresh), names, marked)
      if whole and #names < count then take_used('ZPOPMIN', count - #names) end
    end
    return names
  end

  local function give_back(object, names)
    object.freed, object.newest = object.freed or {}, nil
    local free, named = {}, {}
    for name in string.gmatch(names, '[^,]+') do
      local number = number_of(object, name)
      if not number then
        named[#named + 1] = name
      elseif number < object.fresh then
        free[#free + 1] = name
      else
        unmark(object, name, number)
      end
      object.freed[#object.freed + 1] = name
    end
    in_chunks(named, function(some)
      for i, record in ipairs(call('HMGET', object.resources, unpack(some))) do
        if record and string.sub(record, 1, 1) == '1' then free[#free + 1] = some[i] end
      end
    end)
    in_chunks(free, function(some)
      local pairs_of = {}
      for _, name in ipairs(some) do
        pairs_of[#pairs_of + 1] = now_us
        pairs_of[#pairs_of + 1] = name
      end
      call('ZADD', object.free, unpack(pairs_of))
    end)
  end

  -- A resource by its name: whether it is in service, and whether it is free.
  local function in_service(object, name)
    return index_of(object, name) ~= nil or string.sub(call('HGET', object.resources, name) or '0', 1, 1) == '1'
  end

  local function is_free(object, name)
    local index = index_of(object, name)
    if index and index >= object.fresh then return call('HEXISTS', object.resources, name) == 0 end
    return call('ZSCORE', object.free, name) ~= false
  end

  local function claim(object, names)
    local used, fresh = {}, {}
    for _, name in ipairs(names) do
      local number = number_of(object, name)
      if number and number >= math.max(object.fresh, object.count) then
        mark(object, name, number) -- out of service
      else
        local into = number and number >= object.fresh and fresh or used
        into[#into + 1] = name
      end
    end
    in_chunks(used, function(some) call('ZREM', object.free, unpack(some)) end)
    in_chunks(fresh, function(some)
      local marks = {}
      for _, name in ipairs(some) do
        marks[#marks + 1] = name
        marks[#marks + 1] = 'x'
        if object.records then object.records[name] = 'x' end
      end
      call('HSET', object.resources, unpack(marks))
    end)
  end

  -- Returns the record of a resource, as this call has read it first.
  local function record_of(object, name)
    object.records = object.records or {}
    if object.records[name] == nil then object.records[name] = call('HGET', object.resources, name) or '' end
    return object.records[name]
  end

  -- Reads those of many in one command.
  local function read_records(object, names)
    object.records = object.records or {}
    for i, record in ipairs(call('HMGET', object.resources, unpack(names))) do
      object.records[names[i]] = record or ''
    end
  end

  -- Notes a resource that cannot be read: no request that needs all others and this one can be granted.
  local function unreadable(object, name)
    local known = object.unreadable or { count = 0 }
    if not known[name] then
      known[name], known.count, known.first = true, known.count + 1, known.first or name
    end
    object.unreadable = known
  end

  -- Returns the properties of a resource, or nil if they cannot be read: such a resource matches no request, and does not
  -- keep a request from the others.
  local function properties_of(object, name)
    local record = record_of(object, name)
    local json = string.sub(record, 2)
    local whole, properties = string.match(record, '^[01x]') or record == '', {}
    if whole and json ~= '' then
      whole, properties = pcall(cjson.decode, json)
    end
    if not whole or type(properties) ~= 'table' then return unreadable(object, name) end
    for key, value in pairs(properties) do
      if type(key) ~= 'string' or type(value) ~= 'string' then return unreadable(object, name) end
    end
    return properties
  end

  local function unescaped(text)
    return (string.gsub(text, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
  end

  -- Returns whether a resource matches a selector.
  local function suits(object, selector, name)
    local kind, wanted = string.sub(selector, 1, 1), string.sub(selector, 2)
    if kind ~= '=' and kind ~= '?' then return true end
    object.selectors_read = object.selectors_read or {}
    if kind == '=' then
      local names = object.selectors_read[selector]
      if not names then
        names = {}
        for one in string.gmatch(wanted, '[^,]+') do
          names[one] = true
        end
        object.selectors_read[selector] = names
      end
      return names[name] == true
    end
    local pairs_wanted = object.selectors_read[selector]
    if not pairs_wanted then
      pairs_wanted = {}
      for key, value in string.gmatch(wanted, '([^&=]*)=([^&]*)') do
        pairs_wanted[#pairs_wanted + 1] = { unescaped(key), unescaped(value) }
      end
      object.selectors_read[selector] = pairs_wanted
    end
    -- Most records that do not match are recognised by their text, without parsing it.
    local record = record_of(object, name)
    if not string.find(record, '\\', 1, true) then
      for _, pair in ipairs(pairs_wanted) do
        if not string.find(pair[2], '["\\%c]') and not string.find(record, pair[2], 1, true) then return false end
      end
    end
    local properties = properties_of(object, name)
    if not properties then return false end
    for _, pair in ipairs(pairs_wanted) do
      if properties[pair[1]] ~= pair[2] then return false end
    end
    return true
  end

  -- Returns the line of a queue entry, by its selector.
  local function line_of(names)
    local kind = string.sub(names, 1, 1)
    if kind == '=' then return string.find(names, ',', 1, true) and '>' .. string.sub(names, 2) or names end
    return kind == '?' and names or '-'
  end

  -- Tickets may be negative, by priorities; with this they are in order as digits.
  local LOWEST = 1125899906842624
  local function member_of(line, ticket, token) return format('%s %016d %s', line, ticket + LOWEST, token) end

  -- Returns the first entry of a line. Entries of clients from before there were lines are removed.
  local function head(object, line)
    while true do
      local member = call('ZRANGE', object.selectors, '[' .. line .. ' ', '(' .. line .. '!', 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then return nil end
      local ticket, token = string.match(member, ' (%d+) (%S+)$')
      ticket = ticket - LOWEST
      if tonumber(call('ZSCORE', object.queue, token)) == ticket then
        return { line = line, ticket = ticket, token = token }
      end
      call('ZREM', object.selectors, member)
    end
  end

  -- Returns up to `most` lines of `selectors`, and where the next call continues.
  local function lines(object, from, to, most)
    local found = {}
    while #found < most do
      local member = call('ZRANGE', object.selectors, from, to, 'BYLEX', 'LIMIT', 0, 1)[1]
      if not member then return found, nil end
      found[#found + 1] = string.match(member, '^%S+')
      from = '(' .. found[#found] .. '!'
    end
    return found, from
  end

  -- The same, each time from where the last call has stopped: so that all have their turn.
  local function lines_in_turn(object, turn, first, last, most)
    local from = call('HGET', object.obj, turn)
    local found, rest = lines(object, from or first, last, most)
    if from and not rest then
      local others
      others, rest = lines(object, first, last, most - #found)
      for _, line in ipairs(others) do
        found[#found + 1] = line
      end
    end
    if rest and #found == most then
      call('HSET', object.obj, turn, rest)
    elseif from then
      call('HDEL', object.obj, turn)
    end
    return found
  end

  -- Lines that one call looks at: of those for properties and for several resources, of those for one, and of all. Each line
  -- of the first kind is compared with the newest free resources: LOOKS bounds how many times.
  local LINES, NAMED, HEADS, LOOKS = 16, 8, 32, 128

  -- The heads of the lines that may have a resource now, first come first: of the line for any resource; of some of those
  -- for properties and for several, in turn; of those for one resource, the ones of what this call has freed, and some others
  -- in turn. After a change `unseen` bounds how many queue entries stand in lines that have not been looked at since. As long as
  -- there are some, and something is free, the next call continues.
  local function heads(object, asking)
    local known, found = {}, {}
    local function add(line)
      if known[line] or #found >= HEADS then return end
      known[line] = true
      found[#found + 1] = head(object, line)
    end
    add('-')
    local entry = asking and find_entry(object, asking)
    if entry then add(line_of(entry.names)) end
    local changed = object.changed or object.freed
    local unseen = changed and call('ZCARD', object.selectors) or tonumber(call('HGET', object.obj, 'unseen') or 0)
    local some_lines = math.min(LINES, math.floor(LOOKS / math.max(1, math.min(NEWEST, call('ZCARD', object.free)))))
    local some = lines_in_turn(object, 'turn', '[>', '+', some_lines)
    for _, line in ipairs(some) do
      add(line)
    end
    for i = 1, math.min(64, object.freed and #object.freed or 0) do
      add('=' .. object.freed[i])
    end
    local named = lines_in_turn(object, 'turn_named', '[=', '(>', NAMED)
    for _, line in ipairs(named) do
      add(line)
    end
    -- A waiter for one of several resources may stand before the waiter for all of them.
    for _, line in ipairs(some) do
      local names = 0
      for name in string.gmatch(string.sub(line, 1, 1) == '>' and string.sub(line, 2) or '', '[^,]+') do
        names = names + 1
        if names > 16 or #found >= HEADS then break end
        add('=' .. name)
      end
    end
    object.unseen = #some < some_lines and #named < NAMED and 0 or math.max(0, unseen - #some - #named)
    if object.unseen > 0 then
      call('HSET', object.obj, 'unseen', object.unseen)
    elseif unseen > 0 then
      call('HDEL', object.obj, 'unseen')
    end
    budget = budget - #found / 4
    table.sort(found, function(a, b) return a.ticket < b.ticket end)
    return found
  end

  -- Puts those into their lines whom a client of before there were lines has put into the queue, some in each call.
  local function line_up(object, waiting)
    if call('ZCARD', object.selectors) == waiting then return end
    local from = tonumber(call('HGET', object.obj, 'lined_up') or 0)
    local some = call('ZRANGE', object.queue, from, from + 49, 'WITHSCORES')
    for i = 1, #some, 2 do
      local entry = find_entry(object, some[i])
      if entry then call('ZADD', object.selectors, 0, member_of(line_of(entry.names), some[i + 1], some[i])) end
    end
    call('HSET', object.obj, 'lined_up', from + 50 < waiting and from + 50 or 0)
  end

  -- Takes the resources that match a request, all or none. `earlier` are the selectors of the requests before it that could
  -- not be granted: resources that match them are kept for them.
  local function choose(object, entry, earlier)
    if lowering(object) then
      object.more = true
      return nil
    end
    local kind, wanted = string.sub(entry.names, 1, 1), string.sub(entry.names, 2)
    local chosen = {}
    local named_wait = object.standing and call('ZRANGE', object.selectors, '[=', '(>', 'BYLEX', 'LIMIT', 0, 1)[1]
    local function may_have(name)
      if not suits(object, entry.names, name) or not properties_of(object, name) then return false end
      for _, selector in ipairs(earlier) do
        if suits(object, selector, name) then return false end
      end
      -- An earlier entry waits for this resource by name.
      local other = named_wait and head(object, '=' .. name)
      return not other or other.ticket >= object.standing
    end
    if kind == '=' then
      for name in string.gmatch(wanted, '[^,]+') do
        if not is_free(object, name) or not may_have(name) then return nil end
        chosen[#chosen + 1] = name
      end
    elseif kind == '?' or #earlier > 0 or named_wait then
      -- A call looks at so many free resources, and the next one goes on; what was just freed is looked at in any case.
      local total, seen, taken = call('ZCARD', object.free), 0, {}
      local asks = not object.standing or object.asks
      local most, cursor = asks and SCANNED or SEEN_AGAIN, asks and 'scanned' or 'seen_again'
      local many = total > most
      local start = many and tonumber(call('HGET', object.obj, cursor) or 0) % total or 0
      object.scans = asks and most or object.scans or FOR_WAITERS
      local function consider(name)
        if #chosen < entry.permits and not taken[name] and may_have(name) then
          chosen[#chosen + 1] = name
          taken[name] = true
        end
      end
      if not asks then
        if not object.newest then
          object.newest, object.taken = call('ZRANGE', object.free, 0, NEWEST - 1, 'REV'), {}
          if #object.newest > 0 then read_records(object, object.newest) end
        end
        for _, name in ipairs(object.newest) do
          if not object.taken[name] then consider(name) end
        end
        object.scans = object.scans - #object.newest * (1 + #earlier / 8)
        -- All there are.
        if total <= #object.newest then seen = total end
      end
      -- A large request looks at as many as it needs, and at as many again that wait for other requests.
      while #chosen < entry.permits and seen < total and (object.scans > 0 or seen < 2 * entry.permits) do
        local at = (start + seen) % total
        local last = math.min(at + 99, total - 1, at + total - seen - 1)
        local names =
          call('ZRANGE', object.free, at, last, unpack(object.order == 'MostRecentlyUsed' and { 'REV' } or {}))
        read_records(object, names)
        for _, name in ipairs(names) do
          consider(name)
        end
        seen = seen + #names
        object.scans = object.scans - #names * (1 + #earlier / 8)
      end
      if many and #chosen < entry.permits then
        call('HSET', object.obj, cursor, (start + seen) % total)
        if asks then object.parts = math.ceil(total / math.max(1, seen)) end
      end
      if object.prefix and #chosen < entry.permits then
        -- The same of those that were never handed out: many of them may be marked, or waited for by name.
        local left, looked = object.count - object.fresh, 0
        local at = math.max(object.fresh, tonumber(call('HGET', object.obj, 'scanned_fresh') or 0))
        while #chosen < entry.permits and looked < left and (object.scans > 0 or looked < entry.permits) do
          if at >= object.count then at = object.fresh end
          local names, missing_yet = {}, math.max(20, entry.permits - #chosen)
          local last = math.min(at + math.min(CHUNK, missing_yet, left - looked), object.count) - 1
          for number = at, last do
            names[#names + 1] = object.prefix .. int(number)
          end
          read_records(object, names)
          for _, name in ipairs(names) do
            if #chosen == entry.permits then break end
            if record_of(object, name) == '' and may_have(name) then chosen[#chosen + 1] = name end
            at, looked = at + 1, looked + 1
            object.scans = object.scans - 3
          end
        end
        call('HSET', object.obj, 'scanned_fresh', int(at))
        if asks and #chosen < entry.permits then
          object.parts = math.max(object.parts or 0, math.ceil(left / math.max(1, looked)))
        end
      end
      if #chosen < entry.permits then return nil end
    else
      if entry.permits > call('ZCARD', object.free) + fresh_left(object, marks(object)) then return nil end
      if kind == '~' and in_service(object, wanted) and is_free(object, wanted) and properties_of(object, wanted) then
        claim(object, { wanted })
        chosen[1] = wanted
      end
      local unreadable = {}
      repeat
        local names = take(object, entry.permits - #chosen)
        in_chunks(names, function(some) read_records(object, some) end)
        for _, name in ipairs(names) do
          local into = properties_of(object, name) and chosen or unreadable
          into[#into + 1] = name
        end
      until #names == 0 or #chosen == entry.permits
      -- They stay where they are looked at last.
      for _, name in ipairs(unreadable) do
        call('ZADD', object.free, object.order == 'MostRecentlyUsed' and 0 or now_us, name)
      end
      if #chosen == entry.permits then return chosen end
      give_back(object, table.concat(chosen, ','))
      return nil
    end
    claim(object, chosen)
    return chosen
  end

  -- The names that holders have. Those of a lease that cannot be read are among what is not free.
  local function held_names(object)
    local held, whole = {}, true
    for _, token in ipairs(call('ZRANGE', object.holders, 0, -1)) do
      local entry = find_entry(object, token)
      whole = whole and entry
      for name in string.gmatch(entry and entry.names or '', '[^,]+') do
        held[name] = true
      end
    end
    local function unless_free(name)
      if not call('ZSCORE', object.free, name) then held[name] = true end
    end
    if not whole then
      for _, name in ipairs(call('HKEYS', object.resources)) do
        unless_free(name)
      end
      for index = 0, (object.prefix and object.fresh or 0) - 1 do
        unless_free(object.prefix .. int(index))
      end
    end
    return held
  end

  -- Frees the resources that are in service and not held.
  local function find_unheld(object)
    local held = held_names(object)
    local function free(name)
      if not held[name] then call('ZADD', object.free, 'NX', now_us, name) end
    end
    if object.prefix then
      for index = 0, object.fresh - 1 do
        free(object.prefix .. int(index))
      end
      mark_held(object, held)
    else
      for _, name in ipairs(call('HKEYS', object.resources)) do
        if in_service(object, name) then free(name) end
      end
    end
  end

  -- While a smaller count is being applied, what stands in `free` may be out of service.
  local function unused(object)
    local free = call('ZCARD', object.free) + fresh_left(object, marks(object))
    return lowering(object) and math.min(free, math.max(0, object.count - object.held)) or free
  end

  made = {
    number_of = number_of,
    lower = lower,
    lowering = lowering,
    mark_held = mark_held,
    record_of = record_of,
    properties_of = properties_of,
    find_unheld = find_unheld,
    give_back = give_back,
    in_service = in_service,
    claim = claim,
    choose = choose,
    held_names = held_names,
    unused = unused,
    line_of = line_of,
    member_of = member_of,
    head = head,
    heads = heads,
    line_up = line_up,
  }
  return made
end
