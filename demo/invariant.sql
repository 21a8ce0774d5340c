-- What TPC-B promises, whatever was committed: the accounts, the tellers, the
-- branches and the history of all changes add up to the same sum.
SELECT accounts, tellers, branches, history, transactions,
       accounts = tellers AND tellers = branches AND branches = history AS holds
  FROM (SELECT sum(abalance) AS accounts FROM pgbench_accounts) AS a,
       (SELECT sum(tbalance) AS tellers FROM pgbench_tellers) AS t,
       (SELECT sum(bbalance) AS branches FROM pgbench_branches) AS b,
       (SELECT coalesce(sum(delta), 0) AS history, count(*) AS transactions FROM pgbench_history) AS h;
