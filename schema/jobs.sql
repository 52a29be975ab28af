-- jobs.sql - the database of one broker: private tables (singular), public views (plural, documented in SCHEMA.md).
-- Times are unix milliseconds in tables. A row's number is job * 2^32 + its index in the job.
-- The version is `pragma user_version`; store/schema.c holds the steps from one to the next.
-- sum, sums: checksums of what the record says (store/sums.c); null in records from before version 6. Jobs from meta's sums_from on have
-- all of them.

create table meta (name text primary key, value) without rowid;

-- What scores depend on beside their rows. Of rows with an adapter: text ends in " lora=" and its digest. Of rows of several models (an
-- ensemble): digest is "ensemble", and text the numbers of their modes, with commas between.
create table mode (mode integer primary key, digest text not null, text text not null, unique (digest, text));

create table job (
  job         integer primary key,
  key         text not null unique,
  priority    integer not null default 0,
  paused      integer not null default 0,
  cancelled   integer not null default 0,
  seal_chunk  integer,                     -- the sealed chunk's number, null while open
  next_chunk  integer not null default 0,  -- first chunk not placed yet
  accepted    integer not null default 0,  -- rows stored, those past a gap too
  placed      integer not null default 0,  -- rows that have their index
  done        integer not null default 0,  -- finished rows, failed ones included
  failed      integer not null default 0,
  copied      integer not null default 0,  -- done with the result of a row that is the same
  cached      integer not null default 0,  -- done with a result out of the score cache
  fresh       integer not null default 0,  -- takes nothing from the score cache
  running     integer not null default 0,  -- advisory
  tokens_left integer not null default 0,  -- tokens of unfinished rows
  next_seq    integer not null default 1,  -- cursor of the next result
  mode        integer not null references mode,
  truncation  integer not null default 0,  -- of rows that asked for it: n the longest, none was cut; -n some were cut to this many tokens
  adapters    text,                        -- JSON: of each route that its rows have (row.adapter) the mode they are scored under; null: none, they fail
  meta        blob,                        -- the client's, msgpack
  rate        real not null default 0,
  created_ms  integer not null,
  finished_ms integer,
  sum         integer,
  model       text                         -- the name of the model that mode was of
);

create index job_unfinished on job (job) where finished_ms is null;
create index job_done on job (job) where finished_ms is not null and cancelled = 0 and paused = 0;
create index job_paused on job (job) where paused <> 0;
create index job_cancelled on job (job) where cancelled <> 0;
create index job_over on job (finished_ms) where finished_ms is not null;

-- Jobs that nobody needs once they are over: purged a while after that, and after since_ms, when they were said to be so.
create table ephemeral (job integer primary key, since_ms integer not null);
create index ephemeral_since on ephemeral (since_ms);

-- Jobs that were purged, while their rows are being deleted, and a new one while its first rows are being written. meta's last_job keeps their numbers from being given again.
create table purge (job integer primary key);

create table chunk (
  job     integer not null,
  chunk   integer not null,
  digest  blob not null,                   -- XXH3-128 of the encoded rows; BLAKE2b-256 of those from before version 4
  n_rows  integer not null,
  seal    integer not null,
  pending integer,                         -- while the chunk is kept, as it is past a gap or its rows are being placed: bytes of its encoded rows
  sum     integer,                         -- of all but pending; null in chunks from before version 9
  n_placed integer not null default 0,     -- rows of a kept chunk that are placed
  primary key (job, chunk)
) without rowid;

-- The encoded rows of kept chunks, in order; the chunk's digest is of them. Those of a chunk that is not kept are being written, or deleted.
create table piece (
  job     integer not null,
  chunk   integer not null,
  piece   integer not null,
  bytes   blob not null,
  primary key (job, chunk, piece)          -- not "without rowid": each step over such a record would read all of it
);

create table row (
  row         integer primary key,
  client_id,                               -- integer or text, as the client gave it; above 2^63 - 1 a blob of digits
  shape       integer not null default 0,  -- what the client sent: enum row_shape (request.h)
  n_tokens    integer not null,
  pool_type   integer not null,
  activation  integer not null,
  step_token  integer not null,
  n_values    integer not null,
  attempts    integer not null default 0,  -- groups that it killed alone
  sum         integer,                     -- of all but attempts
  adapter     text                         -- its route: ADAPTER, MODEL/, MODEL/ADAPTER, or several of the last two with commas between; null: the job's model alone
);

-- Up to 64 rows' input in one record, which has the number of the first of them (packed_rows.h). ids: packed or plain (ids.h). ends: of a row's
-- sequences in its ids, where it is responses or a pair; positions are one for each then. sums: 8 bytes for each row, of its input.
create table row_input (row integer primary key, ids blob not null, positions blob, ends blob, rows blob, sums blob);

-- States of the rows block * 64 to block * 64 + 63, a bit each, the lowest the first's. Neither queued nor failed: done.
create table block (
  block   integer primary key,
  queued  integer not null,
  running integer not null,                -- a group holds it now; advisory, 0 at every start
  failed  integer not null,
  sum     integer                          -- of all but running
);
create index block_queued on block (block) where queued <> 0;
create index block_running on block (block) where running <> 0;
create index block_failed on block (block) where failed <> 0;

create table result (
  job           integer not null,
  seq           integer not null,          -- the cursor: order of completion in the job
  row           integer not null,
  score         real,                      -- results of one number
  vector        blob,                      -- float32s, of results of more
  vector_json   text,                      -- the same for people
  pooled        blob,                      -- int32 pairs (position, token id)
  error_code    text,
  error_message text,
  mode          integer not null,
  finished_ms   integer not null,
  sum           integer,                   -- of all but vector_json
  primary key (job, seq)
) without rowid;
create index result_row on result (row);

-- Cursors whose results are not there any more: their rows were queued again. Any other gap is damage.
create table gone (job integer not null, seq integer not null, primary key (job, seq)) without rowid;

create table batch (
  batch       integer primary key,
  worker_group integer not null,
  incarnation integer not null,
  n_rows      integer not null,
  n_tokens    integer not null,
  started_ms  integer not null,
  ms          integer,                     -- null while it runs
  ok          integer
);

create index batch_running on batch (batch) where ms is null;

create table worker (
  worker_group integer not null,
  rank         integer not null,
  incarnation  integer not null,
  pid          integer not null,
  device       text not null,
  state        text not null,
  batches      integer not null,
  restarts     integer not null,
  last_seen_ms integer not null,
  busy_us      integer not null default 0, -- computing, of the time since it was ready; as of its last batch
  up_us        integer not null default 0,
  model        text not null default '',
  primary key (worker_group, rank)
) without rowid;

create table minute (minute integer primary key, n_rows integer not null, n_tokens integer not null);

create view jobs as
  select job, key,
    case
      when cancelled then 'cancelled'
      when paused or held and not (sealed and done = placed) then 'paused'
      when sealed and done = placed then 'done'
      when not sealed then 'open'
      when running > 0 then 'running'
      else 'queued'
    end as state,
    reason, priority,
    case when sealed then placed end as total,
    accepted, done, failed, running,
    case when cancelled then 0 else max(accepted - done - running, 0) end as queued,
    case when cancelled then accepted - done else 0 end as cancelled,
    round(case when finished_ms > created_ms then done * 1000.0 / (finished_ms - created_ms) else rate end, 3) as rate,
    case when rate > 0 and not cancelled and not paused and not held and finished_ms is null then cast((accepted - done) / rate as integer) end as eta_s,
    created_ms / 1000.0 as created_ts,
    strftime('%Y-%m-%dT%H:%M:%fZ', created_ms / 1000.0, 'unixepoch') as created_at,
    finished_ms / 1000.0 as finished_ts,
    strftime('%Y-%m-%dT%H:%M:%fZ', finished_ms / 1000.0, 'unixepoch') as finished_at,
    copied, cached, model, checkpoint
  from (
    select job.*, made.digest as checkpoint,
      seal_chunk is not null and next_chunk > seal_chunk as sealed,
      not is_served or
        missing is not null or
        case when job.truncation < 0 then -job.truncation <> longest else job.truncation > longest end as held,
      case
        when not is_served then
          'made with checkpoint ' || substr(made.digest, 1, 12) || ' (' || made.text || '), the broker ' || case
            when n_models < 2 then 'runs ' || substr(now.digest, 1, 12) || ' (' || now.text || ')'
            when same.mode is not null then 'runs ' || substr(same.digest, 1, 12) || ' (' || same.text || ') as ' || model
            else 'has no model ''' || ifnull(model, '') || ''''
          end
        when instr(missing, ',') then 'made with other checkpoints of the models ' || missing
        when missing is not null then
          'made with ' || iif(missing like '%/', 'model ', 'adapter ') || rtrim(missing, '/') || ' (' ||
          ifnull((select substr(iif(missing like '%/', digest, substr(text, -64)), 1, 12) from mode where mode.mode = json_extract(adapters, '$."' || missing || '"')), '') ||
          '), the broker has ' || ifnull((select rtrim(missing, '/') || ' (' || substr(iif(missing like '%/', digest, substr(text, -64)), 1, 12) || ')' from mode
            where mode.mode = json_extract(loaded, '$."' || missing || '"')), 'none of that name')
        when job.truncation < 0 and -job.truncation <> longest then
          'made with rows truncated to ' || -job.truncation || ' tokens, the broker truncates to ' || longest || ' (--max-len)'
        when job.truncation > longest then
          'made with rows of up to ' || job.truncation || ' tokens, the broker truncates to ' || longest || ' (--max-len)'
      end as reason
    from (
      select job.*, loaded, n_models, first,
        mode in (select value from json_each(present)) as is_served,
        coalesce(json_extract(lengths, '$."' || mode || '"'), iif(truncation < 0, -truncation, 1 << 40)) as longest,
        (select key from json_each(iif(json_valid(adapters), adapters, '{}')) where value is not null and value not in (select value from json_each(present))
         order by key limit 1) as missing
      from job, (select
        coalesce(max(iif(name = 'adapters', value, null)), '{}') as loaded,
        coalesce(max(iif(name = 'present', value, null)), '[]') as present,
        coalesce(max(iif(name = 'lengths', value, null)), '{}') as lengths,
        max(iif(name = 'models', value, null)) as n_models,
        max(iif(name = 'mode', value, null)) as first
        from meta where name in ('adapters', 'present', 'lengths', 'models', 'mode'))) job
      join mode made on made.mode = job.mode
      join mode now on now.mode = first
      left join mode same on same.mode = json_extract(loaded, '$."' || model || '/"'));

create view rows as
  select row.row >> 32 as job, row.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id,
    case
      when (block.failed >> (row.row & 63)) & 1 then 'failed'
      when not (block.queued >> (row.row & 63)) & 1 then 'done'
      when job.cancelled then 'cancelled'
      when (block.running >> (row.row & 63)) & 1 then 'running'
      else 'queued'
    end as state,
    n_tokens, attempts,
    iif(instr(adapter, ','), null, nullif(substr(adapter, instr(adapter, '/') + 1), '')) as adapter,
    iif(instr(adapter, ','), adapter, iif(instr(adapter, '/'), substr(adapter, 1, instr(adapter, '/') - 1), job.model)) as model
  from row
    join job on job.job = row.row >> 32
    join block on block.block = row.row >> 6;

create view results as
  select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id, result.score, result.vector_json as values_json,
    row.n_tokens, error_code, seq as cursor,
    finished_ms / 1000.0 as finished_ts,
    strftime('%Y-%m-%dT%H:%M:%fZ', finished_ms / 1000.0, 'unixepoch') as finished_at,
    (select digest from mode where mode.mode = result.mode) as checkpoint
  from result left join row on row.row = result.row
  where result.job not in (select job from purge);

create view errors as
  select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id, error_code as code, error_message as message,
    row.attempts,
    finished_ms / 1000.0 as finished_ts,
    strftime('%Y-%m-%dT%H:%M:%fZ', finished_ms / 1000.0, 'unixepoch') as finished_at
  from result left join row on row.row = result.row
  where error_code is not null and result.job not in (select job from purge);

-- Each of the scores of the responses to one prompt (shape 4; of documents 7), and what they say together. PROTOCOL.md has the formulas; they need SQLite's sqrt().
-- Where several models have scored them (adapter has commas), the values of the first model come first, and a response's score is their mean.
create view responses as
  select job, i, id, response, score, rank, iif(most > least, (score - mean) / sqrt(squares / (n - 1)), 0.0) as advantage
  from (
    select *, count(*) over of_row as n, sum((score - mean) * (score - mean)) over of_row as squares,
      max(score) over of_row as most, min(score) over of_row as least
    from (
      select *, rank() over (partition by job, i order by score desc) as rank, avg(score) over (partition by job, i) as mean
      from (
        select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id,
          value.key % (json_array_length(vector_json) / (1 + length(ifnull(adapter, '')) - length(replace(ifnull(adapter, ''), ',', '')))) as response, avg(value.value) as score
        from result
          join row on row.row = result.row and row.shape in (4, 7)
          join json_each(vector_json) value
        where error_code is null and result.job not in (select job from purge)
        group by result.job, i, response))
    window of_row as (partition by job, i));

create view response_stats as
  select job, i, id, n, response as best, coalesce(score - next, 0.0) as margin, mean,
    iif(score > least, sqrt(squares / max(n - 1, 1)), 0.0) as std
  from (
    select *, count(*) over of_row as n, sum((score - mean) * (score - mean)) over of_row as squares, min(score) over of_row as least
    from (
      select *, row_number() over by_score as place, lead(score) over by_score as next, avg(score) over (partition by job, i) as mean
      from (
        select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id,
          value.key % (json_array_length(vector_json) / (1 + length(ifnull(adapter, '')) - length(replace(ifnull(adapter, ''), ',', '')))) as response, avg(value.value) as score
        from result
          join row on row.row = result.row and row.shape in (4, 7)
          join json_each(vector_json) value
        where error_code is null and result.job not in (select job from purge)
        group by result.job, i, response)
      window by_score as (partition by job, i order by score desc, response))
    window of_row as (partition by job, i))
  where place = 1;

-- The scores of pairs (shape 5); where several models have scored them, their means.
create view pairs as
  select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id,
    (select avg(value) from json_each(vector_json) where key % 2 = 0) as chosen,
    (select avg(value) from json_each(vector_json) where key % 2 = 1) as rejected,
    (select sum(iif(key % 2, -value, value)) / (count(*) / 2) from json_each(vector_json)) as margin
  from result
    join row on row.row = result.row and row.shape = 5
  where error_code is null and result.job not in (select job from purge);

-- Values of the steps of a solution (pool_type 3 and 6) that have one number each, so as many as positions.
create view step_stats as
  select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id,
    json_array_length(vector_json) as n,
    (select min(value) from json_each(vector_json)) as min,
    (with recursive up_to(k, product) as (
       select 0, 1.0
       union all
       select k + 1, product * json_extract(vector_json, '$[' || k || ']') from up_to where k < json_array_length(vector_json))
     select product from up_to order by k desc limit 1) as product,
    json_extract(vector_json, '$[#-1]') as last,
    (select avg(value) from json_each(vector_json)) as mean
  from result
    join row on row.row = result.row and row.pool_type in (3, 6) and instr(ifnull(adapter, ''), ',') = 0
  where error_code is null and json_array_length(vector_json) * 8 = length(pooled) and result.job not in (select job from purge);

-- What several models gave one row. response: of responses and documents; of a pair 0 is chosen and 1 rejected. std: of the population.
create view model_scores as
  select job, i, id, rtrim(json_extract('["' || replace(adapter, ',', '","') || '"]', '$[' || (key / each) || ']'), '/') as model, score,
    iif(shape in (4, 5, 7), key % each, null) as response
  from (
    select result.job, result.row & 4294967295 as i, case typeof(client_id) when 'blob' then cast(client_id as text) else client_id end as id, adapter, shape,
      value.key, value.value as score, json_array_length(vector_json) / (1 + length(ifnull(adapter, '')) - length(replace(ifnull(adapter, ''), ',', ''))) as each
    from result
      join row on row.row = result.row and instr(adapter, ',')
      join json_each(vector_json) value
    where error_code is null and result.job not in (select job from purge));

create view ensembles as
  select job, i, id, n, mean, iif(most > least, sqrt(squares / n), 0.0) as std
  from (
    select *, count(*) over of_row as n, sum((score - mean) * (score - mean)) over of_row as squares,
      max(score) over of_row as most, min(score) over of_row as least, row_number() over of_row as place
    from (select *, avg(score) over (partition by job, i) as mean from model_scores where response is null)
    window of_row as (partition by job, i))
  where place = 1;

create view workers as
  select worker_group as 'group', rank, incarnation, pid, device, state, batches, restarts,
    last_seen_ms / 1000.0 as last_seen_ts,
    strftime('%Y-%m-%dT%H:%M:%fZ', last_seen_ms / 1000.0, 'unixepoch') as last_seen_at,
    busy_us / 1e6 as busy_s, up_us / 1e6 as up_s, model
  from worker;

create view batches as
  select batch, worker_group as 'group', incarnation, n_rows as rows, n_tokens as tokens, ms, ok,
    started_ms / 1000.0 as started_ts,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_ms / 1000.0, 'unixepoch') as started_at
  from batch;

create view throughput as
  select minute * 60 as minute_ts,
    strftime('%Y-%m-%dT%H:%MZ', minute * 60, 'unixepoch') as minute_at,
    n_rows as rows, n_tokens as tokens
  from minute;
