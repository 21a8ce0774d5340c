/*-------------------------------------------------------------------------
 *
 * compile.c
 *	  From the column maps of a table to expressions the executor can run.
 *
 * An expression is SQL over the columns of the source, which it may qualify
 * with "source".  It is parsed like any expression of a query on the foreign
 * table, coerced to the target column as an assignment, and planned.  At
 * definition it is parsed under the definer's search_path and stored as the
 * server deparses it with everything qualified, so that what it means does
 * not depend on who runs it later.
 *
 * This module reads the system catalogs and nothing else: no SPI, no libpq.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "mapping/mapping.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/*
 * show_expression makes the position of an error one in the expression, not
 * in whatever statement the session is running.
 */
static void
show_expression(void *text)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) text);
	}
}

/*
 * is_star tells whether a parse node stands for several columns.
 */
static bool
is_star(Node *node)
{
	if (IsA(node, ColumnRef))
		return IsA(llast(((ColumnRef *) node)->fields), A_Star);
	if (IsA(node, A_Indirection))
		return IsA(llast(((A_Indirection *) node)->indirection), A_Star);
	return false;
}

/*
 * value_reference resolves the name "value" in a rule to the rule's value.
 */
static Node *
value_reference(ParseState *pstate, ColumnRef *ref)
{
	Node	   *name = linitial(ref->fields);

	if (list_length(ref->fields) == 1 && IsA(name, String) && strcmp(strVal(name), "value") == 0)
		return copyObject((Node *) pstate->p_ref_hook_state);
	return NULL;
}

/*
 * rehome_expression_parse_value parses one expression over the columns of rel
 * and, unless it is NULL, "value".  Raises on anything but a single, set-free,
 * subquery-free expression.  The result is not yet coerced.
 */
Node *
rehome_expression_parse_value(const char *text, Relation rel, const char *alias, Node *value)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *nsitem;
	List	   *raw;
	SelectStmt *select;
	ResTarget  *target;
	Node	   *expr;
	Bitmapset  *attnos = NULL;
	ErrorContextCallback callback = {error_context_stack, show_expression, unconstify(char *, text)};

	error_context_stack = &callback;
	raw = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	select = (SelectStmt *) linitial_node(RawStmt, raw)->stmt;
	if (list_length(raw) != 1 || !IsA(select, SelectStmt) ||
		list_length(select->targetList) != 1 || select->fromClause != NIL ||
		select->whereClause != NULL || select->groupClause != NIL ||
		select->havingClause != NULL || select->windowClause != NIL ||
		select->sortClause != NIL || select->limitCount != NULL ||
		select->limitOffset != NULL || select->lockingClause != NIL ||
		select->distinctClause != NIL || select->op != SETOP_NONE ||
		is_star(linitial_node(ResTarget, select->targetList)->val))
		ereport(ERROR,
				errcode(ERRCODE_SYNTAX_ERROR),
				errmsg("\"%s\" is not a single expression", text),
				errhint("Write one SQL expression over the columns of \"%s\".",
						RelationGetRelationName(rel)));
	target = linitial_node(ResTarget, select->targetList);

	pstate->p_sourcetext = text;
	if (value != NULL)
	{
		pstate->p_pre_columnref_hook = value_reference;
		pstate->p_ref_hook_state = value;
	}
	nsitem = addRangeTableEntryForRelation(pstate, rel, AccessShareLock,
										   makeAlias(alias, NIL), false, true);
	addNSItemToQuery(pstate, nsitem, true, true, true);
	expr = transformExpr(pstate, target->val, EXPR_KIND_GENERATED_COLUMN);
	assign_expr_collations(pstate, expr);
	free_parsestate(pstate);
	error_context_stack = callback.previous;

	pull_varattnos(expr, 1, &attnos);
	if (bms_next_member(attnos, -1) >= 0 &&
		bms_next_member(attnos, -1) + FirstLowInvalidHeapAttributeNumber < 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				errmsg("expression \"%s\" reads a system column", text),
				errdetail("Rows are moved without their system columns."));
	if (contain_volatile_functions(expr))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				errmsg("expression \"%s\" is volatile", text),
				errdetail("Copy, sync and verification each evaluate it and must get the same value."),
				errhint("Use immutable or stable functions only."));
	return expr;
}

/*
 * rehome_expression_parse does the same without a value.
 */
Node *
rehome_expression_parse(const char *text, Relation rel, const char *alias)
{
	return rehome_expression_parse_value(text, rel, alias, NULL);
}

/*
 * rehome_expression_deparse returns an expression's SQL, everything outside
 * the current search_path qualified.
 */
char *
rehome_expression_deparse(Node *expr, Relation rel, const char *alias)
{
	return deparse_expression(expr, deparse_context_for(alias, RelationGetRelid(rel)),
							  false, false);
}

/*
 * rehome_is_integer tells whether a type is one of the three integers.
 */
bool
rehome_is_integer(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

/*
 * rehome_expression_assign makes an expression fit a type, as an assignment
 * would, and plans it; NULL when there is no such cast.
 */
Node *
rehome_expression_assign(Node *expr, Oid type, int32 typmod)
{
	ParseState *pstate = make_parsestate(NULL);
	Node	   *result = coerce_to_target_type(pstate, expr, exprType(expr), type, typmod,
											   COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);

	if (result != NULL)
		assign_expr_collations(pstate, result);
	free_parsestate(pstate);
	return result ? (Node *) expression_planner((Expr *) result) : NULL;
}

/*
 * rehome_expression_coerce does the same for a column, and raises when there is
 * no such cast.
 */
Node *
rehome_expression_coerce(Node *expr, Relation target, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target), attnum - 1);
	Node	   *result = rehome_expression_assign(expr, att->atttypid, att->atttypmod);

	if (result == NULL)
		ereport(ERROR,
				errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("column \"%s\" of \"%s\" is of type %s but its map gives %s",
					   NameStr(att->attname), RelationGetRelationName(target),
					   format_type_with_typemod(att->atttypid, att->atttypmod),
					   format_type_be(exprType(expr))),
				errhint("Map the column with an explicit cast in the expression."));
	return result;
}

/*
 * rehome_expression_columns returns the names (char *) of the columns an
 * expression reads.
 */
List *
rehome_expression_columns(Node *expr, Relation rel)
{
	Bitmapset  *attnos = NULL;
	List	   *names = NIL;
	int			i = -1;

	pull_varattnos(expr, 1, &attnos);
	while ((i = bms_next_member(attnos, i)) >= 0)
	{
		AttrNumber	attnum = i + FirstLowInvalidHeapAttributeNumber;

		if (attnum == InvalidAttrNumber)
		{
			TupleDesc	desc = RelationGetDescr(rel);

			for (int a = 0; a < desc->natts; a++)
				if (!TupleDescAttr(desc, a)->attisdropped)
					names = lappend(names, pstrdup(NameStr(TupleDescAttr(desc, a)->attname)));
			break;
		}
		if (attnum > 0)
			names = lappend(names, pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname)));
	}
	return names;
}

/*
 * rehome_operator_name returns an operator as SQL.
 */
char *
rehome_operator_name(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *sql;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	sql = psprintf("OPERATOR(%s.%s)",
				   quote_identifier(get_namespace_name(form->oprnamespace)),
				   NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return sql;
}

/*
 * rehome_equality_operator returns, as SQL, the equality operator by which a
 * unique index of the relation compares a column; failing that, the default
 * one of its type.
 */
char *
rehome_equality_operator(Oid relid, AttrNumber attnum)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	Oid			operator = InvalidOid;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index ind = index->rd_index;

		for (int i = 0; i < ind->indnkeyatts && !OidIsValid(operator); i++)
			if (ind->indisunique && ind->indkey.values[i] == attnum &&
				index->rd_rel->relam == BTREE_AM_OID)
				operator = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
											   index->rd_opcintype[i], BTEqualStrategyNumber);
		index_close(index, AccessShareLock);
	}
	if (!OidIsValid(operator))
		operator = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR)->eq_opr;
	if (!OidIsValid(operator))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_FUNCTION),
				errmsg("column \"%s\" of \"%s\" cannot be part of a key",
					   NameStr(att->attname), RelationGetRelationName(rel)),
				errdetail("Type %s has no equality operator.", format_type_be(att->atttypid)));
	table_close(rel, AccessShareLock);
	return rehome_operator_name(operator);
}

static TupleDesc
describe(RehomeMappedColumn **columns, int n)
{
	TupleDesc	desc = CreateTemplateTupleDesc(n);

	for (int i = 0; i < n; i++)
	{
		TupleDescInitEntry(desc, i + 1, columns[i]->name, columns[i]->type,
						   columns[i]->typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, columns[i]->collation);
	}
	return desc;
}

/*
 * compile_column parses and coerces one column's expression.
 */
static void
compile_column(RehomeMapping *mapping, RehomeMappedColumn *column,
			   RehomeColumnMap *map, Relation source, Relation target)
{
	Form_pg_attribute att;
	ListCell   *lc;
	int			position = 0;

	column->name = map->name;
	column->map = map;
	column->attnum = get_attnum(RelationGetRelid(target), map->name);
	if (column->attnum <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("column \"%s\" of \"%s\" does not exist any more",
					   map->name, RelationGetRelationName(target)));
	att = TupleDescAttr(RelationGetDescr(target), column->attnum - 1);
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->collation = att->attcollation;
	column->notnull = att->attnotnull;
	column->on_error = map->on_error ? map->on_error[0] : mapping->map->quarantine ? 'q' : 'f';
	if (column->on_error == 'd')
	{
		Node	   *value = build_column_default(target, column->attnum);

		column->instead = value ? expression_planner((Expr *) value) : NULL;
	}
	if (column->on_error != 'f')
		mapping->tolerant = true;
	column->identity_always = att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
	column->expression = map->expression;
	column->expr = (Expr *)
		rehome_expression_coerce(rehome_expression_parse(map->expression, source, "source"),
								 target, column->attnum);
	if (IsA(column->expr, Var) && ((Var *) column->expr)->varattno > 0)
		column->plain = ((Var *) column->expr)->varattno;
	else
		mapping->all_plain = false;
	pull_varattnos((Node *) column->expr, 1, &mapping->needed);

	foreach(lc, mapping->map->key)
	{
		position++;
		if (strcmp(lfirst(lc), map->name) == 0)
		{
			column->key = position;
			column->equal = rehome_equality_operator(RelationGetRelid(target), column->attnum);
			mapping->key[position - 1] = column;
		}
	}
}

/*
 * is_text tells whether values of a type are compared letter by letter, unless
 * their collation says otherwise.
 */
static bool
is_text(Oid type)
{
	return type == TEXTOID || type == VARCHAROID || type == BPCHAROID || type == NAMEOID || type == BYTEAOID;
}

/*
 * rehome_is_by_letter tells whether they are; of a domain too.
 */
bool
rehome_is_by_letter(Oid type, Oid collation)
{
	return is_text(getBaseType(type)) && (!OidIsValid(collation) || get_collation_isdeterministic(collation));
}

/*
 * has_one_spelling tells whether values of a type are equal only if they look
 * the same.  That is not known of what is not listed.
 */
static bool
has_one_spelling(Oid type, Oid collation)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case UUIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return true;
		case BPCHAROID:
			return false;		/* blanks at the end */
		default:
			return rehome_is_by_letter(type, collation) || get_typtype(type) == TYPTYPE_ENUM;
	}
}

/*
 * is_builtin tells whether an operator, as SQL, comes with PostgreSQL.
 */
static bool
is_builtin(const char *operator)
{
	return strncmp(operator, "OPERATOR(pg_catalog.", strlen("OPERATOR(pg_catalog.")) == 0;
}

/*
 * is_looser tells whether a column of the target's key may take for one what the
 * source tells apart.  It does not where it is a copy of a column of the same
 * type, unless that is text, which may have another collation at the source, or
 * is no such type there: then its operator comes with PostgreSQL, and ours with
 * an extension.
 */
static bool
is_looser(RehomeMapping *mapping, RehomeMappedColumn *column)
{
	RehomeTableMap *map = mapping->map;
	int32		typmod = column->typmod;
	Oid			type = getBaseTypeAndTypmod(column->type, &typmod);
	ListCell   *lc;

	/* of a char(n) all values have as many blanks */
	if (has_one_spelling(type, column->collation) ||
		(type == BPCHAROID && typmod >= 0 && rehome_is_by_letter(type, column->collation)))
		return false;
	if (column->plain == 0 || is_text(type))
		return true;
	if (is_builtin(column->equal) || map->source_equal == NIL)
		return false;
	foreach(lc, map->source_key)
		if (strcmp(lfirst(lc), NameStr(TupleDescAttr(mapping->source_desc, column->plain - 1)->attname)) == 0)
			return is_builtin(list_nth(map->source_equal, foreach_current_index(lc)));
	return false;
}

/*
 * rehome_mapping_compile compiles a table map, in the current memory context,
 * as the migration's owner: the planner evaluates what is constant in an
 * expression.  Raises when the map no longer fits the tables.
 */
RehomeMapping *
rehome_mapping_compile(RehomeTableMap *map, Oid owner)
{
	RehomeMapping *mapping = palloc0(sizeof(RehomeMapping));
	Relation	source = table_open(map->source, AccessShareLock);
	Relation	target = table_open(map->target, AccessShareLock);
	RehomeMappedColumn **all;
	RehomeAs	as;
	ListCell   *lc;

	rehome_become(&as, owner);
	mapping->map = map;
	mapping->source_desc = CreateTupleDescCopy(RelationGetDescr(source));
	mapping->columns = palloc0(sizeof(RehomeMappedColumn) * Max(list_length(map->columns), 1));
	mapping->nkey = list_length(map->key);
	mapping->key = palloc0(sizeof(RehomeMappedColumn *) * mapping->nkey);
	mapping->all_plain = true;
	mapping->tolerant = map->quarantine;

	foreach(lc, map->columns)
	{
		RehomeColumnMap *column = lfirst(lc);

		if (column->kind != REHOME_SKIP)
			compile_column(mapping, &mapping->columns[mapping->ncolumns++], column,
						   source, target);
	}
	foreach(lc, map->key)
		if (mapping->key[foreach_current_index(lc)] == NULL)
			elog(ERROR, "key column \"%s\" of table map %d is not mapped",
				 (char *) lfirst(lc), map->id);

	all = palloc(sizeof(RehomeMappedColumn *) * Max(mapping->ncolumns, 1));
	for (int i = 0; i < mapping->ncolumns; i++)
		all[i] = &mapping->columns[i];
	mapping->mapped_desc = describe(all, mapping->ncolumns);
	mapping->key_desc = describe(mapping->key, mapping->nkey);
	for (int k = 0; k < mapping->nkey; k++)
		if (is_looser(mapping, mapping->key[k]))
			mapping->looser = bms_add_member(mapping->looser, k);
	table_close(target, AccessShareLock);
	table_close(source, AccessShareLock);
	rehome_become_self(&as);
	return mapping;
}

/*
 * reads tells whether a column is among attnums, as pull_varattnos() has them,
 * by itself or with the whole row.
 */
static bool
reads(Bitmapset *attnums, AttrNumber attnum)
{
	return bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, attnums) ||
		bms_is_member(InvalidAttrNumber - FirstLowInvalidHeapAttributeNumber, attnums);
}

/*
 * rehome_mapping_source_columns returns the names (char *) of the source
 * columns that have to be read, in the foreign table's order.
 */
List *
rehome_mapping_source_columns(RehomeMapping *mapping)
{
	List	   *names = NIL;

	for (int i = 0; i < mapping->source_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(mapping->source_desc, i);

		if (!att->attisdropped && (mapping->tolerant || reads(mapping->needed, att->attnum) ||
								   rehome_name_listed(mapping->map->source_key, NameStr(att->attname))))
			names = lappend(names, pstrdup(NameStr(att->attname)));
	}
	return names;
}

/*
 * rehome_mapping_reads returns the names (char *) of the source columns that
 * target columns, given by name, are made from; but for those of the key.
 */
List *
rehome_mapping_reads(RehomeMapping *mapping, List *targets)
{
	Bitmapset  *attnums = NULL;
	List	   *names = NIL;

	for (int c = 0; c < mapping->ncolumns; c++)
		if (rehome_name_listed(targets, mapping->columns[c].name))
			pull_varattnos((Node *) mapping->columns[c].expr, 1, &attnums);
	for (int i = 0; i < mapping->source_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(mapping->source_desc, i);

		if (!att->attisdropped && !rehome_name_listed(mapping->map->source_key, NameStr(att->attname)) &&
			reads(attnums, att->attnum))
			names = lappend(names, pstrdup(NameStr(att->attname)));
	}
	return names;
}

/*
 * rehome_mapping_source_key returns, in the order of the source's key, the
 * target columns (char *) that its columns are copied to as they are; NIL when
 * one is computed.
 */
List *
rehome_mapping_source_key(RehomeMapping *mapping)
{
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, mapping->map->source_key)
	{
		char	   *found = NULL;

		for (int k = 0; k < mapping->nkey; k++)
		{
			AttrNumber	plain = mapping->key[k]->plain;

			if (plain != 0 && strcmp(NameStr(TupleDescAttr(mapping->source_desc, plain - 1)->attname),
									 lfirst(lc)) == 0)
				found = mapping->key[k]->name;
		}
		if (found == NULL)
			return NIL;
		columns = lappend(columns, found);
	}
	return columns;
}

/*
 * rehome_mapping_source_spelled returns which columns of the source's key,
 * counted from 0, are one and the same only if they are spelled the same.  Two
 * spellings of what the source takes for one key ('a' and 'A' of a citext, 1.0
 * and 1.00) are the keys of two rows to a target that compares letter by
 * letter; and where the target takes for one what the source may not, only the
 * spelling tells which row it has.  Text is always among them: the foreign table
 * may say text of what is a citext at the source, or has another collation there.
 */
Bitmapset *
rehome_mapping_source_spelled(RehomeMapping *mapping)
{
	bool		by_letter = mapping->looser != NULL;

	for (int k = 0; k < mapping->nkey; k++)
		if (rehome_is_by_letter(mapping->key[k]->type, mapping->key[k]->collation))
			by_letter = true;
	return by_letter ? rehome_mapping_source_spellings(mapping) : NULL;
}

/*
 * rehome_mapping_source_spellings returns which columns of the source's key may
 * have several spellings of one value, whether or not the target minds.
 */
Bitmapset *
rehome_mapping_source_spellings(RehomeMapping *mapping)
{
	Bitmapset  *spelled = NULL;
	ListCell   *lc;

	foreach(lc, mapping->map->source_key)
		for (int i = 0; i < mapping->source_desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(mapping->source_desc, i);
			Oid			type = getBaseType(att->atttypid);

			if (!att->attisdropped && strcmp(NameStr(att->attname), lfirst(lc)) == 0 &&
				(is_text(type) || !has_one_spelling(type, att->attcollation)))
				spelled = bms_add_member(spelled, foreach_current_index(lc));
		}
	return spelled;
}

/*
 * rehome_mapping_target_spelled returns the same of the target's key, whatever
 * the source compares it by.
 */
Bitmapset *
rehome_mapping_target_spelled(RehomeMapping *mapping)
{
	Bitmapset  *spelled = NULL;

	for (int k = 0; k < mapping->nkey; k++)
		if (!has_one_spelling(getBaseType(mapping->key[k]->type), mapping->key[k]->collation))
			spelled = bms_add_member(spelled, k);
	return spelled;
}
