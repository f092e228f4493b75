// Reads one token by the client that OpenAPI Generator makes of the API's description.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"example/vault"
)

func main() {
	configuration := vault.NewConfiguration()
	configuration.Servers = vault.ServerConfigurations{{URL: os.Getenv("API_URL")}}
	configuration.AddDefaultHeader("Authorization", "Bearer "+os.Getenv("API_KEY"))
	client := vault.NewAPIClient(configuration)
	token, _, err := client.DefaultAPI.GetUserToken(context.Background(), "google-oauth2|1111", "google-oauth2").MinTtl(60).Execute()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.AccessToken)
}
