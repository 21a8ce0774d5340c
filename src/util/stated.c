/*-------------------------------------------------------------------------
 *
 * stated.c
 *	  Queries that somebody stated, to be run later with the owner's rights.
 *
 * A rule's expression is stored with every name qualified (mapping/compile.c).
 * Whole queries cannot be: they may be meant for another server.  So the
 * search_path of whoever stated the query is kept beside it, with pg_temp last,
 * where a table somebody made in his session cannot pass for another.
 *
 * Such a query is a single SELECT, and runs read-only: transaction_read_only
 * holds for what its functions do as well.  It may fail, or take too long,
 * without failing the transaction.
 *
 * The timeout is one of our own.  statement_timeout counts from the start of
 * the statement that called us, and what it ends is all of that statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "storage/latch.h"
#include "util/attempt.h"
#include "util/stated.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/varlena.h"

static TimeoutId query_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t timed_out = false;

static void
on_timeout(void)
{
	timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * rehome_stated_path returns the caller's search_path as it is to be kept:
 * pg_temp last, wherever it was.
 */
char *
rehome_stated_path(RehomeCall *call)
{
	StringInfoData path;
	List	   *names;
	ListCell   *lc;

	initStringInfo(&path);
	if (!SplitIdentifierString(pstrdup(call->search_path), ',', &names))
		elog(ERROR, "malformed search_path \"%s\"", call->search_path);
	foreach(lc, names)
		if (strcmp(lfirst(lc), "pg_temp") != 0 && ((char *) lfirst(lc))[0] != '\0')
			appendStringInfo(&path, "%s, ", quote_identifier(lfirst(lc)));
	appendStringInfoString(&path, "pg_temp");
	return path.data;
}

/*
 * rehome_stated_trim returns a query without what may follow it: blanks and
 * semicolons.
 */
char *
rehome_stated_trim(const char *sql)
{
	size_t		len = strlen(sql);

	while (len > 0 && strchr("; \t\r\n", sql[len - 1]) != NULL)
		len--;
	return pnstrdup(sql, len);
}

/*
 * rehome_stated_require_select raises unless the text is one SELECT, which
 * what names.
 */
void
rehome_stated_require_select(const char *sql, const char *what)
{
	List	   *statements = raw_parser(sql, RAW_PARSE_DEFAULT);

	if (list_length(statements) != 1 ||
		!IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt) ||
		castNode(SelectStmt, linitial_node(RawStmt, statements)->stmt)->intoClause != NULL)
		ereport(ERROR,
				errcode(ERRCODE_SYNTAX_ERROR),
				errmsg("%s is not a single query", what),
				errdetail("It is: %s", sql),
				errhint("State one SELECT, WITH ... SELECT, VALUES or TABLE that writes nothing."));
}

/*
 * rehome_stated_require_expression raises unless the text is one expression.
 */
void
rehome_stated_require_expression(const char *expression, const char *what)
{
	List	   *statements = raw_parser(expression, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = NULL;

	if (list_length(statements) == 1 && IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		select = castNode(SelectStmt, linitial_node(RawStmt, statements)->stmt);
	if (select == NULL || list_length(select->targetList) != 1 || select->fromClause != NIL ||
		select->whereClause != NULL || select->op != SETOP_NONE || select->sortClause != NIL ||
		select->groupClause != NIL || select->limitCount != NULL)
		ereport(ERROR,
				errcode(ERRCODE_SYNTAX_ERROR),
				errmsg("%s is not a single expression", what),
				errdetail("It is: %s", expression));
}

static void
set_as(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * rehome_stated_enter_writing makes the settings those something stated is run
 * with that may write; the result is for rehome_stated_leave().  An abort
 * leaves too.
 */
int
rehome_stated_enter_writing(const RehomeStated *stated)
{
	int			level = NewGUCNestLevel();

	set_as("search_path", stated->search_path);
	return level;
}

/*
 * rehome_stated_enter does the same for a query, which may not.
 */
int
rehome_stated_enter(const RehomeStated *stated)
{
	int			level = rehome_stated_enter_writing(stated);

	/* as SET LOCAL does: not every version lets a function have it for itself */
	(void) set_config_option("transaction_read_only", "on", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	if (stated->as_client)
	{
		set_as("jit", GetConfigOptionResetString("jit"));
		set_as("random_page_cost", GetConfigOptionResetString("random_page_cost"));
	}
	return level;
}

/*
 * rehome_stated_leave puts the settings back, as an abort would: what is LOCAL
 * would otherwise stay to the end of the transaction.
 */
void
rehome_stated_leave(int level)
{
	AtEOXact_GUC(false, level);
}

/*
 * rehome_stated_run runs a query, with a text as $1 if there is one, and
 * returns its rows.  EXPLAIN is a query here too.
 */
RehomeRows *
rehome_stated_run(const RehomeStated *stated, const char *sql, const char *parameter)
{
	int			level = rehome_stated_enter(stated);
	bool		explain = pg_strncasecmp(sql, "EXPLAIN", 7) == 0;
	RehomeAs	as;
	RehomeRows *rows;

	rehome_become(&as, stated->owner);
	/* utility commands are writes to SPI; the transaction knows better */
	if (explain)
		rows = rehome_spi(sql, "");
	else if (parameter != NULL)
		rows = rehome_spi_read(sql, "t", parameter);
	else
		rows = rehome_spi_read(sql, "");
	rehome_become_self(&as);
	rehome_stated_leave(level);
	return rows;
}

typedef struct Attempt
{
	const RehomeStated *stated;
	const char *sql;
	const char *parameter;
	RehomeRows *rows;
} Attempt;

static void
run_attempt(void *arg)
{
	Attempt    *attempt = arg;

	if (attempt->stated->timeout > 0)
		enable_timeout_after(query_timeout, attempt->stated->timeout);
	attempt->rows = rehome_stated_run(attempt->stated, attempt->sql, attempt->parameter);
}

/*
 * rehome_stated_try does the same in a subtransaction: NULL, with the rows in
 * *rows, or what went wrong.  A cancel by the user is still one.
 */
ErrorData *
rehome_stated_try(const RehomeStated *stated, const char *sql, const char *parameter,
				  RehomeRows **rows)
{
	Attempt		attempt = {stated, sql, parameter, NULL};
	ErrorData  *error;

	if (query_timeout == MAX_TIMEOUTS)
		query_timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
	timed_out = false;
	error = rehome_attempt(run_attempt, &attempt);
	disable_timeout(query_timeout, false);
	if (timed_out)
	{
		/* too late to stop anything, it must not stop what follows */
		QueryCancelPending = false;
		if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			error->message = psprintf("the query took longer than %d ms", stated->timeout);
	}
	else if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	*rows = attempt.rows;
	return error;
}
