// Package v20170312 stands in for the Tencent Cloud SDK of the same path, which flannel imports for
// its backend tencent-vpc: a hundred thousand generated lines that the module proxy does not always
// have. flanneld compiles with what is declared here, and that one backend says why it cannot run.
package v20170312

import "errors"

var errNotBuiltIn = errors.New("this flanneld is built without the Tencent Cloud SDK: use another backend")

// Client of the cloud's interface.
type Client struct{}

// Filter of a query.
type Filter struct {
	Name   *string
	Values []*string
}

// Route of a route table.
type Route struct {
	DestinationCidrBlock *string
	GatewayType          *string
	GatewayId            *string
	RouteType            *string
	RouteId              *uint64
	Enabled              *bool
}

// RouteTable of a network.
type RouteTable struct {
	RouteTableId *string
	RouteSet     []*Route
}

// DescribeRouteTablesRequest asks for route tables.
type DescribeRouteTablesRequest struct {
	Filters []*Filter
}

// DescribeRouteTablesResponse has them.
type DescribeRouteTablesResponse struct {
	Response *struct {
		RouteTableSet []*RouteTable
	}
}

// RoutesRequest names routes of a table.
type RoutesRequest struct {
	RouteTableId *string
	Routes       []*Route
}

// NewClientWithSecretId makes no client.
func NewClientWithSecretId(_, _, _ string) (*Client, error) {
	return &Client{}, errNotBuiltIn
}

// NewDescribeRouteTablesRequest makes a request.
func NewDescribeRouteTablesRequest() *DescribeRouteTablesRequest {
	return &DescribeRouteTablesRequest{}
}

// NewDeleteRoutesRequest makes a request.
func NewDeleteRoutesRequest() *RoutesRequest {
	return &RoutesRequest{}
}

// NewCreateRoutesRequest makes a request.
func NewCreateRoutesRequest() *RoutesRequest {
	return &RoutesRequest{}
}

// DescribeRouteTables refuses.
func (*Client) DescribeRouteTables(*DescribeRouteTablesRequest) (*DescribeRouteTablesResponse, error) {
	return nil, errNotBuiltIn
}

// DeleteRoutes refuses.
func (*Client) DeleteRoutes(*RoutesRequest) (any, error) {
	return nil, errNotBuiltIn
}

// CreateRoutes refuses.
func (*Client) CreateRoutes(*RoutesRequest) (any, error) {
	return nil, errNotBuiltIn
}
